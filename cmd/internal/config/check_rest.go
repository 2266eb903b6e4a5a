package config

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// onDemand checks that no step follows one that always applies.
func (k *checker) onDemand() {
	for i, step := range k.OnDemand {
		path := fmt.Sprintf("on_demand[%d]", i)
		if step.If == nil && i < len(k.OnDemand)-1 {
			k.fault(path, "move it to the end, or add if", "no step after this one can apply")
		}
		if step.If != nil {
			k.condition(path+".if", *step.If)
		}
	}
}

// condition checks that the condition of a step can hold for some networks, and not for others.
func (k *checker) condition(path string, c Condition) {
	if len(c.Interface)+len(c.SSID)+len(c.DNSSearch)+len(c.DNSServer)+len(c.GatewayIP) == 0 && c.ProbeURL == "" && c.Beacon == nil {
		k.fault(path, "add a condition, or remove if", "%s has no condition", path)
	}
	if c.ProbeURL != "" && !isWebURL(c.ProbeURL) {
		k.fault(path+".probe_url", "write https://HOST/PATH", "the probe_url is %q", c.ProbeURL)
	}
	if c.Beacon == nil {
		return
	}
	if digest, err := hex.DecodeString(c.Beacon.SHA256); err != nil || len(digest) != 32 {
		k.fault(path+".beacon.sha256", "write the certificate's digest as 64 hexadecimal digits", "the beacon's sha256 is %q", c.Beacon.SHA256)
	}
	if c.Beacon.Addr.Port() == 0 {
		k.fault(path+".beacon.addr", "write a port from 1 to 65535", "the beacon's addr is %s", c.Beacon.Addr)
	}
}

// rest checks the sections that depend on no other.
func (k *checker) rest() {
	if k.Metrics.Listen != "" {
		k.hostPort("metrics.listen", k.Metrics.Listen)
	}
	for pattern := range k.globs {
		if read, err := filepath.Match(pattern, k.Managed); err == nil && read || slices.Contains(k.Files, k.Managed) {
			k.fault("managed", "name another one", "the file for decisions, %s, is one of the configuration", k.Managed)
			break
		}
	}
	for i, target := range k.Health {
		path := fmt.Sprintf("health[%d]", i)
		k.endpoint(path, target)
		if slices.Contains(k.Health[:i], target) {
			k.fault(path, "keep one of them", "health has %s twice", target)
		}
	}
	for _, limit := range k.Limits.numbers() {
		if limit.value < limit.least || limit.value > limit.most {
			k.fault("limits."+limit.key, "write "+limit.bounds, "limits.%s is %s", limit.key, limit.text)
		}
	}
	for i, probe := range k.CaptivePortal.Probe {
		if u, err := url.Parse(probe); err != nil || u.Scheme != "http" || u.Host == "" {
			k.fault(fmt.Sprintf("captive_portal.probe[%d]", i), "write http://...: a portal can only show itself in plain HTTP", "the probe %q is not an http:// URL", probe)
		}
	}
	if k.CaptivePortal.Window > 0 && !k.CaptivePortal.Detect {
		k.fault("captive_portal.window", "remove it, or set detect: true", "captive_portal.window never opens, because detect is false")
	}
	if k.AlwaysOn.Lockdown && k.Listen.TUN == nil {
		k.fault("always_on.lockdown", "remove it, or add listen: {tun: {}}", "always_on.lockdown closes a host with listen.tun, and there is none")
	}
	if k.FlowLog.Keep < 0 {
		k.fault("flow_log.keep", "write 0 or more", "flow_log.keep is %d", k.FlowLog.Keep)
	}
	if to := k.FlowLog.Syslog; to != "" && !strings.HasPrefix(to, "/") {
		if at, err := netip.ParseAddrPort(to); err != nil || !at.Addr().IsLoopback() || at.Port() == 0 {
			k.fault("flow_log.syslog", "write the path of its socket, such as /dev/log, or a loopback address and port, such as 127.0.0.1:514", "flow_log.syslog is %q", to)
		}
	}
	if k.FlowLog.File != "" && k.FlowLog.MaxSize < 4096 {
		k.fault("flow_log.max_size", "write 4KiB or more", "flow_log.max_size is %s", k.FlowLog.MaxSize)
	}
	if h := k.History; h != nil {
		if h.Keep < time.Hour {
			k.fault("history.keep", "write 1h or more", "history.keep is %s", h.Keep)
		}
		if h.MaxSize < 4<<20 {
			k.fault("history.max_size", "write 4MiB or more", "history.max_size is %s", h.MaxSize)
		}
	}
	if k.Console.Listen != "" {
		if at, err := netip.ParseAddrPort(k.Console.Listen); err == nil && !at.Addr().IsLoopback() {
			k.fault("console.listen", "write a loopback address, such as 127.0.0.1:9478, and reach it from elsewhere through ssh -L",
				"console.listen is %s, where others could reach it, and the page is not encrypted", at.Addr())
		} else if err != nil {
			k.fault("console.listen", "write an address and a port, such as 127.0.0.1:9478", "console.listen is %q", k.Console.Listen)
		}
	}
}

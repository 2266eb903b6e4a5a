package config

import (
	"fmt"
	"net/url"
)

// onDemand checks that no step follows one that always applies.
func (k *checker) onDemand() {
	for i, step := range k.OnDemand {
		path := fmt.Sprintf("on_demand[%d]", i)
		if step.If == nil && i < len(k.OnDemand)-1 {
			k.fault(path, "move it to the end, or add if", "no step after this one can apply")
		}
		if step.If != nil && step.If.Beacon != nil && len(step.If.Beacon.SHA256) != 64 {
			k.fault(path+".if.beacon.sha256", "write the certificate's digest as 64 hexadecimal digits", "the beacon's sha256 has %d characters", len(step.If.Beacon.SHA256))
		}
	}
}

// rest checks the sections that depend on no other.
func (k *checker) rest() {
	if k.Metrics.Listen != "" {
		k.hostPort("metrics.listen", k.Metrics.Listen)
	}
	for _, limit := range k.Limits.numbers() {
		if limit.value < 1 {
			k.fault("limits."+limit.key, "write more than 0", "limits.%s is %d", limit.key, limit.value)
		}
	}
	for i, probe := range k.CaptivePortal.Probe {
		if u, err := url.Parse(probe); err != nil || u.Scheme != "http" || u.Host == "" {
			k.fault(fmt.Sprintf("captive_portal.probe[%d]", i), "write http://...: a portal can only show itself in plain HTTP", "the probe %q is not an http:// URL", probe)
		}
	}
	if k.FlowLog.Keep < 0 {
		k.fault("flow_log.keep", "write 0 or more", "flow_log.keep is %d", k.FlowLog.Keep)
	}
	if k.FlowLog.File != "" && k.FlowLog.MaxSize < 4096 {
		k.fault("flow_log.max_size", "write 4KiB or more", "flow_log.max_size is %s", k.FlowLog.MaxSize)
	}
}

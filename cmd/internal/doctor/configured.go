package doctor

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/private"
	"penstock/router/transport/wireguard"
)

// mostEndpoints bounds the names that are looked up.
const mostEndpoints = 32

// Port is one that a configuration listens on.
type Port struct {
	Key     string // of the configuration
	Network string // tcp or udp
	Address netip.AddrPort
}

// portsOf returns the ports that a configuration listens on. Those on the addresses of our own TUN are not the host's.
func portsOf(cfg *config.Config) []Port {
	var list []Port
	add := func(key, network string, addrs ...netip.AddrPort) {
		for _, a := range addrs {
			list = append(list, Port{key, network, a})
		}
	}
	everywhere := func(port int) netip.AddrPort { return netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(port)) }
	named := func(key, address string) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return
		}
		if host == "" || host == "localhost" {
			address = map[string]string{"": "[::]", "localhost": "127.0.0.1"}[host] + strings.TrimPrefix(address, host)
		}
		if a, err := netip.ParseAddrPort(address); err == nil {
			add(key, "tcp", a)
		}
	}
	if w := cfg.Listen.WireGuard; w != nil {
		add("listen.wireguard.listen_port", "udp", everywhere(w.ListenPort))
	}
	add("dns.listen", "udp", cfg.DNS.Listen...)
	add("dns.listen", "tcp", cfg.DNS.Listen...)
	if s := cfg.DNS.Serve; s != nil {
		add("dns.serve.https", "tcp", s.HTTPS...)
		add("dns.serve.tls", "tcp", s.TLS...)
	}
	if e := cfg.Listen.Enrol; e != nil {
		named("listen.enrol.address", e.Address)
	}
	named("acme.http", config.ACMEHTTP(cfg))
	if p := cfg.Listen.Proxy; p != nil {
		add("listen.proxy.address", "tcp", p.Address)
	}
	named("metrics.listen", cfg.Metrics.Listen)
	named("console.listen", cfg.Console.Listen)
	for _, name := range slices.Sorted(maps.Keys(cfg.Transports)) {
		if w := cfg.Transports[name].WireGuard; w != nil && w.ListenPort != 0 {
			add("transports."+name+".wireguard.listen_port", "udp", everywhere(w.ListenPort))
		}
	}
	return list
}

// secretFiles returns the files of a configuration that nobody else may read, each with what is wrong with it.
func secretFiles(cfg *config.Config) []SecretFile {
	paths := slices.Clone(cfg.Files)
	for _, s := range secretsIn(reflect.ValueOf(cfg)) {
		paths = append(paths, s.File)
	}
	for _, t := range cfg.Transports {
		switch {
		case t.WireGuard != nil:
			paths = append(paths, t.WireGuard.Config)
		case t.OpenVPN != nil:
			paths = append(paths, t.OpenVPN.Config)
		}
	}
	paths = slices.DeleteFunc(paths, func(p string) bool { return p == "" })
	var list []SecretFile
	for _, path := range slices.Compact(slices.Sorted(slices.Values(paths))) {
		one := SecretFile{Path: path}
		if _, err := private.Read(path, config.MaxFile); err != nil && !errors.Is(err, fs.ErrPermission) {
			one.Why = err.Error()
		}
		list = append(list, one)
	}
	return list
}

// secretsIn returns the secrets anywhere in a value of the configuration.
func secretsIn(v reflect.Value) []config.Secret {
	var list []config.Secret
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			list = secretsIn(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			list = append(list, secretsIn(v.Index(i))...)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			list = append(list, secretsIn(it.Value())...)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[config.Secret]() {
			return []config.Secret{v.Interface().(config.Secret)}
		}
		if list, ok := v.Interface().(config.PeerList); ok {
			return secretsIn(reflect.ValueOf(list.Slice()))
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				list = append(list, secretsIn(v.Field(i))...)
			}
		}
	}
	return list
}

// disks returns the file systems that penstock writes to.
func disks(cfg *config.Config) ([]Disk, error) {
	uses := map[string][]string{}
	use := func(dir, what string) { uses[dir] = append(uses[dir], what) }
	if cfg.Listen.TUN != nil || cfg.Listen.WireGuard != nil {
		use(cfg.StateDir, "state")
	}
	if cfg.FlowLog.File != "" {
		use(filepath.Dir(cfg.FlowLog.File), "flow log")
	}
	if cfg.History != nil {
		use(filepath.Dir(cfg.History.File), "history")
	}
	var list []Disk
	for _, dir := range slices.Sorted(maps.Keys(uses)) {
		d, err := room(dir)
		if err != nil {
			return nil, err
		}
		d.Path, d.Of = dir, uses[dir]
		list = append(list, d)
	}
	return list, nil
}

// transportFile is what of a transport's own file matters here.
type transportFile struct {
	hosts    []string // of its servers, as they are written
	networks []netip.Prefix
}

// readTransport reads the settings of a transport, or its file.
func readTransport(t config.Transport) (transportFile, error) {
	var f transportFile
	addHost := func(hostPort string) {
		if host, _, err := net.SplitHostPort(hostPort); err == nil {
			f.hosts = append(f.hosts, host)
		}
	}
	switch {
	case t.WireGuard != nil && t.WireGuard.Config == "":
		for _, p := range t.WireGuard.Peers {
			for one := range strings.SplitSeq(p.Endpoint, ",") {
				addHost(strings.TrimSpace(one))
			}
			f.networks = append(f.networks, p.AllowedIPs...)
		}
	case t.WireGuard != nil:
		text, err := private.ReadText(t.WireGuard.Config, config.MaxFile)
		if err != nil {
			return f, err
		}
		c, err := wireguard.ParseConfig(strings.NewReader(string(text)), t.WireGuard.Config)
		if err != nil {
			return f, errors.New(t.WireGuard.Config + " has faults: penstock check says which")
		}
		for _, p := range c.Peers {
			for _, e := range p.Endpoints {
				addHost(e.String())
			}
			f.networks = append(f.networks, p.AllowedIPs...)
		}
	case t.OpenVPN != nil:
		text, err := private.ReadText(t.OpenVPN.Config, config.MaxFile)
		if err != nil {
			return f, err
		}
		f.hosts = openvpnRemotes(string(text))
	}
	return f, nil
}

// openvpnRemotes returns the servers in an .ovpn file.
func openvpnRemotes(text string) []string {
	var list []string
	block := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case block != "":
			if line == "</"+block+">" {
				block = ""
			}
		case strings.HasPrefix(line, "<") && strings.HasSuffix(line, ">") && line != "<connection>" && line != "</connection>":
			block = strings.Trim(line, "<>")
		case len(words) > 1 && words[0] == "remote":
			list = append(list, strings.Trim(words[1], `"'`))
		}
	}
	return list
}

// endpoints looks up the names of the servers of transports.
func endpoints(ctx context.Context, cfg *config.Config) ([]Endpoint, error) {
	var list []Endpoint
	for _, name := range slices.Sorted(maps.Keys(cfg.Transports)) {
		file, err := readTransport(cfg.Transports[name])
		if err != nil {
			return nil, err
		}
		for _, host := range file.hosts {
			if _, err := netip.ParseAddr(host); err != nil && host != "" && len(list) < mostEndpoints {
				list = append(list, Endpoint{Transport: name, Host: host})
			}
		}
	}
	var wg sync.WaitGroup
	for i := range list {
		wg.Go(func() {
			if _, err := net.DefaultResolver.LookupNetIP(ctx, "ip", list[i].Host); err != nil {
				list[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
	return list, nil
}

// networksOf returns the networks that transports carry, without default routes. Those of a file that cannot be read are left out.
func networksOf(cfg *config.Config) map[string][]netip.Prefix {
	out := make(map[string][]netip.Prefix)
	for name, t := range cfg.Transports {
		file, err := readTransport(t)
		if err != nil {
			continue
		}
		for _, p := range file.networks {
			if p = p.Masked(); isReused(p) {
				out[name] = append(out[name], p)
			}
		}
	}
	return out
}

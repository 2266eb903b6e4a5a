package hostnet

import (
	"net/netip"
	"strings"
	"testing"
)

func TestConfigIsRefusedWithAReason(t *testing.T) {
	good := Config{Interface: "pen0", StateFile: "state.json"}
	for _, row := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no interface", func(c *Config) { c.Interface = "" }, "interface name"},
		{"a name too long for the kernel", func(c *Config) { c.Interface = "sixteen-bytes-xx" }, "interface name"},
		{"a name that is a path", func(c *Config) { c.Interface = "../all" }, "interface name"},
		{"no state file", func(c *Config) { c.StateFile = "" }, "no state file"},
		{"a mark outside its mask", func(c *Config) { c.Mark, c.MarkMask = 3, 1 }, "does not fit in mask"},
		{"a mask without a mark", func(c *Config) { c.MarkMask = 1 }, "does not fit in mask"},
		{"the main table", func(c *Config) { c.Table = 254 }, "table 254"},
		{"a priority after main", func(c *Config) { c.RulePriority = 32762 }, "rule priority 32762"},
	} {
		c := good
		row.change(&c)
		if _, err := c.withDefaults(); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want an error with %q", row.name, err, row.want)
		}
	}
	c, err := good.withDefaults()
	if err != nil || c.Mark != DefaultMark || c.MarkMask != DefaultMarkMask || c.Table != DefaultTable || c.RulePriority != DefaultRulePriority || c.Log == nil {
		t.Errorf("defaults: got %+v, %v", c, err)
	}
}

func TestSettingsAreRefusedWithAReason(t *testing.T) {
	for _, row := range []struct {
		name string
		s    Settings
		want string
	}{
		{"an invalid address", Settings{Addresses: make([]netip.Prefix, 1)}, "address"},
		{"an IPv4 prefix in IPv6 clothes", Settings{Capture: prefixes("::ffff:10.0.0.0/104")}, "captured prefix"},
		{"an invalid DNS server", Settings{DNS: make([]netip.Addr, 1)}, "DNS server"},
		{"an MTU that carries nothing", Settings{MTU: 100}, "MTU 100"},
		{"a search domain that is more than one line", Settings{Search: []string{"a\nnameserver 192.0.2.66"}}, "search domain"},
		{"an unknown resolver", Settings{Resolver: "dnsmasq"}, `resolver "dnsmasq"`},
	} {
		if err := row.s.check(); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want an error with %q", row.name, err, row.want)
		}
	}
	if err := (Settings{}).check(); err != nil {
		t.Errorf("zero settings: got %v, want nil", err)
	}
}

package config

import "testing"

func TestRates(t *testing.T) {
	for text, want := range map[string]Rate{"64kbit": 64_000, "20Mbit": 20_000_000, "20 Mbit": 20_000_000, "1Gbit": 1_000_000_000, "1000Gbit": maxRate} {
		var got Rate
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
		var again Rate
		if err := again.UnmarshalText([]byte(want.String())); err != nil || again != want {
			t.Errorf("%q: written as %q, which reads %d, %v", text, want.String(), again, err)
		}
	}
	for _, text := range []string{"", "0", "20", "-1Mbit", "0Mbit", "63kbit", "20MB", "20Mb", "20mbit", "2.5Gbit", "1001Gbit", "9223372036854775807Gbit", "Mbit"} {
		var got Rate
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
}

func TestThePeersOwnLimitCountsAndElseItsMostGenerousGroup(t *testing.T) {
	c, err := Parse("/etc/penstock/config.yaml", []byte(`
listen: {tun: {}}
group_limits:
  staff: {rate: {up: 20Mbit, down: 50Mbit}, quota: 10GiB}
  guests: {rate: 30Mbit, quota: {monthly: 10GiB, over: 1Mbit}}
  mail: {rate: {up: 1Mbit}}
rules: [{name: rest, do: direct}]
`))
	if err != nil {
		t.Fatal(err)
	}
	const gib = 1 << 30
	for _, row := range []struct {
		what     string
		peer     Peer
		up, down Rate
		monthly  Size
		over     Over
	}{
		{"no group", Peer{}, 0, 0, 0, 0},
		{"a group without limits", Peer{Groups: []string{"others"}}, 0, 0, 0, 0},
		{"one group", Peer{Groups: []string{"staff"}}, 20e6, 50e6, 10 * gib, 0},
		{"a group that does not limit everything", Peer{Groups: []string{"mail"}}, 1e6, 0, 0, 0},
		{"what a group does not limit, another does", Peer{Groups: []string{"mail", "staff"}}, 20e6, 50e6, 10 * gib, 0},
		{"each limit of the group that is most generous with it", Peer{Groups: []string{"staff", "guests"}}, 30e6, 50e6, 10 * gib, 1e6},
		{"in whichever order", Peer{Groups: []string{"guests", "staff"}}, 30e6, 50e6, 10 * gib, 1e6},
		{"its own, even if it is less", Peer{Groups: []string{"staff"}, Rate: Rates{Up: 1e6}, Quota: &Quota{Monthly: gib}}, 1e6, 50e6, gib, 0},
	} {
		l := LimitsOf(c, row.peer)
		got := row
		got.up, got.down, got.monthly, got.over = l.Rate.Up, l.Rate.Down, 0, 0
		if l.Quota != nil {
			got.monthly, got.over = l.Quota.Monthly, l.Quota.Over
		}
		if got.up != row.up || got.down != row.down || got.monthly != row.monthly || got.over != row.over {
			t.Errorf("%s: got %v, %v, %v, %v", row.what, got.up, got.down, got.monthly, got.over)
		}
	}
	if got := c.Warnings(); len(got) != 3 {
		t.Errorf("got %q, want a warning for each group that nobody is in", got)
	}
}

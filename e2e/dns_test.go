package e2e

import (
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// laptop: dig [pen0 -> penstock: DNS] === WireGuard ===> [penstock: DNS] gateway --- intranet: corp.example
//
//	\--- internet: the rest
func TestNamesByDig(t *testing.T) {
	t.Parallel()
	dig := program(t, "dig")
	w := newWorld(t).up(t)
	if err := w.PublicDNS.Add("rebind.example. 60 IN A 10.20.0.10", "alias.example. 60 IN CNAME casino.example.", "text.example. 60 IN TXT \""+strings.Repeat("long ", 40)+"\""); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		sentence, args string
		status         string
		want           string // answers, in order, a space between them
	}{
		{"a public name over UDP", "public.example A", "NOERROR", publicIPv4},
		{"a public name over TCP", "+tcp public.example A", "NOERROR", publicIPv4},
		{"its IPv6 address", "public.example AAAA", "NOERROR", publicIPv6},
		{"an intranet name over UDP", "intranet.corp.example A", "NOERROR", netlab.IntranetIPv4},
		{"an intranet name over TCP", "+tcp intranet.corp.example AAAA", "NOERROR", netlab.IntranetIPv6},
		{"an intranet name at our IPv6 address", "@fd77::2 intranet.corp.example A", "NOERROR", netlab.IntranetIPv4},
		{"a gambling site has none", "casino.example A", "NXDOMAIN", ""},
		{"a gambling site has none over TCP", "+tcp casino.example AAAA", "NXDOMAIN", ""},
		{"a gambling site in odd letters has none", "CaSiNo.eXaMpLe A", "NXDOMAIN", ""},
		{"an alias of a gambling site has none", "alias.example A", "NXDOMAIN", ""},
		{"a name that does not exist", "nothing.example A", "NXDOMAIN", ""},
		{"a type that a name has none of", "public.example MX", "NOERROR", ""},
		{"the internet gives no address in the intranet", "rebind.example A", "", ""},
		{"a foreign resolver is not asked", "@203.0.113.53 casino.example A", "NXDOMAIN", ""},
		{"a foreign resolver is not asked over TCP", "+tcp @203.0.113.53 casino.example A", "NXDOMAIN", ""},
		{"a foreign resolver is not asked over IPv6", "@2001:db8:113::53 casino.example A", "NXDOMAIN", ""},
		{"who asks a foreign resolver is answered by us", "@203.0.113.53 intranet.corp.example A", "NOERROR", netlab.IntranetIPv4},
		{"who asks a dead resolver is answered by us", "@203.0.113.254 public.example A", "NOERROR", publicIPv4},
		{"a long answer", "text.example TXT", "NOERROR", `"` + strings.Repeat("long ", 40) + `"`},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			r := run(t, w.Laptop, dig, append([]string{"+time=5", "+tries=2", "+noall", "+comments", "+answer"}, strings.Fields(row.args)...)...)
			var got []string
			for line := range strings.Lines(r.stdout) {
				if fields := strings.Fields(line); len(fields) > 4 && !strings.HasPrefix(line, ";") {
					got = append(got, strings.Join(fields[4:], " "))
				}
			}
			if answer := strings.Join(got, " "); strings.TrimSpace(answer) != strings.Join(strings.Fields(row.want), " ") || !strings.Contains(r.stdout, "status: "+row.status) {
				t.Errorf("got %s\nwant %s, %q", r, row.status, row.want)
			}
		})
	}
	names := map[string]bool{}
	for _, f := range w.laptop.flows(t, "--denied") {
		if f.Proto == "dns" && f.Rule == "no-gambling" && f.Verdict == "block" {
			names[f.Host] = true
		}
	}
	if !names["casino.example"] || !names["alias.example"] || names["public.example"] {
		t.Errorf("flows --denied shows the names %v, want casino.example and alias.example", names)
	}
	if !strings.Contains(w.laptop.said.String(), `"msg":"name refused","host":"casino.example"`) {
		t.Error("the log tells about no name that was refused")
	}
	for _, q := range w.PublicDNS.Queries() {
		if got := q.Client.Addr().String(); got != netlab.GatewayIPv4 {
			t.Errorf("the public resolver was asked %s by %s, want only the gateway's %s", q.Name, got, netlab.GatewayIPv4)
		}
	}
	if n := w.PublicDNS.Asked(netlab.GamblingSite); n != 0 {
		t.Errorf("the public resolver was asked for %s %d times, want never", netlab.GamblingSite, n)
	}
	if n := w.PublicDNS.Asked(netlab.IntranetSite); n != 0 {
		t.Errorf("the public resolver was asked for %s %d times, want never", netlab.IntranetSite, n)
	}
	w.nothingInClear(t)
}

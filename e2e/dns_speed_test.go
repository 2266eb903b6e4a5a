package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"penstock/e2e/netlab"
)

// millionYAML is a laptop whose DNS server is asked through the TUN and on loopback, with LISTS for the category gambling.
const millionYAML = `listen:
  tun: {name: pen0, address: [10.77.0.1/24, "fd77::1/64"], state_file: DIR/host.json}
categories:
  gambling: {lists: [LISTS]}
dns:
  listen: ["127.0.0.1:5300"]
  upstreams: [{address: 203.0.113.53}]
rules:
  - {name: no-gambling, match: {category: gambling}, do: block}
  - {name: rest, do: direct}
`

// laptop [dnsperf] --- pen0 -> penstock, 1,000,000 names blocked
//
//	\-- lo ----> penstock
//	 \- lan0 --- access [bare miekg/dns server]
//
// It prints the table; what depends on nothing but the program is asserted, as ratios of one run.
func TestDNSSpeedWithAMillionNames(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it runs for half a minute")
	}
	dnsperf := program(t, "dnsperf")
	w := newWorld(t)
	w.writeQuestions(t)
	bareDNS(t, w.Access, "192.168.50.1:5301")
	w.listed(t, "few.txt")
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	perf := func(at resolverAt, questions string, more ...string) string {
		args := append([]string{"-s", at.server, "-p", at.port, "-d", w.path(questions), "-c", "8", "-q", "200", "-t", "1"}, more...)
		r := run(t, w.Laptop, dnsperf, args...)
		if r.code != 0 {
			t.Fatalf("dnsperf: %s", r)
		}
		return r.stdout
	}
	socket, tun, bare := resolverAt{"127.0.0.1", "5300"}, resolverAt{"10.77.0.2", "53"}, resolverAt{"192.168.50.1", "5301"}
	resident := func() int64 { // when each way has been used
		for _, at := range []resolverAt{socket, tun} {
			perf(at, "cached.txt", "-l", "1", "-Q", "100")
		}
		return w.laptop.rss(t)
	}
	idle := resident()
	w.laptop.stop(t, os.Interrupt)
	w.listed(t, "million.txt")
	w.laptop.start(t)
	added := resident() - idle
	t.Logf("resident: %.1f MiB, and %.1f MiB more with 1,000,000 names", float64(idle)/(1<<20), float64(added)/(1<<20))
	if added > 30<<20 {
		t.Errorf("1,000,000 names add %d MiB to the resident memory, want at most 15", added>>20)
	}

	series := []struct {
		what, questions string
		at              resolverAt
		best            float64
	}{
		{"bare miekg/dns over veth", "cached.txt", bare, 0},
		{"cached, host socket", "cached.txt", socket, 0},
		{"blocked, host socket", "blocked.txt", socket, 0},
		{"cached, through the TUN", "cached.txt", tun, 0},
		{"blocked, through the TUN", "blocked.txt", tun, 0},
	}
	for range 3 { // in turn, so that a machine that is busy for a while is so for all
		for i := range series {
			s := &series[i]
			s.best = max(s.best, number(t, perf(s.at, s.questions, "-l", "1"), `Queries per second:\s+([0-9.]+)`))
		}
	}
	for _, s := range series {
		t.Logf("%-28s %8.0f queries/s", s.what, s.best)
	}
	overVeth, cached, blocked, throughTUN := series[0].best, series[1].best, series[2].best, series[3].best
	t.Logf("blocked/cached %.2f; through the TUN/bare over veth %.2f", blocked/cached, throughTUN/overVeth)
	for what, at := range map[string]resolverAt{"host socket": socket, "through the TUN": tun} {
		seconds := latencies(t, perf(at, "cached.txt", "-Q", "5000", "-l", "2", "-v"))
		t.Logf("at 5,000 queries/s, %s: p50 %.2f ms, p99 %.2f ms", what, 1000*seconds[len(seconds)/2], 1000*seconds[len(seconds)*99/100])
	}
	// Both are ratios of one run, and still noisy where others work on the machine: the bounds are half of the aims.
	if blocked < 0.5*cached {
		t.Errorf("blocked answers come at %.2f of the rate of cached ones, want 1", blocked/cached)
	}
	if throughTUN < 0.3*overVeth {
		t.Errorf("through the TUN: %.2f of the rate of a bare server over veth, want 0.6", throughTUN/overVeth)
	}
}

// resolverAt is where dnsperf sends its questions.
type resolverAt struct{ server, port string }

// listed writes laptop.yaml with one list.
func (w *world) listed(t *testing.T, list string) {
	t.Helper()
	w.write(t, "laptop.yaml", strings.NewReplacer("DIR", w.dir, "LISTS", "{file: "+list+"}").Replace(millionYAML))
}

// writeQuestions writes the lists few.txt and million.txt, and the questions of dnsperf: names that are answered, and names from the list.
func (w *world) writeQuestions(t *testing.T) {
	t.Helper()
	var cached, blocked, records []string
	r := rand.New(rand.NewPCG(1, 2))
	var list strings.Builder
	for i := range 1_000_000 {
		name := fmt.Sprintf("%s%d.%s.test-tld", letters(r, 4+r.IntN(8)), i, letters(r, 3+r.IntN(5)))
		list.WriteString(name + "\n")
		if i%100 == 0 {
			blocked = append(blocked, name)
		}
	}
	w.write(t, "million.txt", list.String())
	for i := range 1000 {
		name := fmt.Sprintf("site%d.many.example", i)
		cached = append(cached, name)
		records = append(records, name+". 3600 IN A 203.0.113.10")
	}
	if err := w.PublicDNS.Add(records...); err != nil {
		t.Fatal(err)
	}
	w.write(t, "cached.txt", strings.Join(cached, " A\n")+" A\n")
	w.write(t, "blocked.txt", strings.Join(blocked, " A\n")+" A\n")
	w.write(t, "few.txt", strings.Join(blocked[:1], "\n")+"\n")
}

func letters(r *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + r.IntN(26))
	}
	return string(b)
}

// bareDNS serves one address for every name as a miekg/dns handler does at its barest.
func bareDNS(t *testing.T, h *netlab.Host, address string) {
	t.Helper()
	pc, err := h.ListenPacket(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 3600}, A: []byte{203, 0, 113, 10}}}
		_ = w.WriteMsg(m)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.ActivateAndServe() })
	t.Cleanup(func() {
		_ = pc.Close()
		wg.Wait()
	})
}

// number is what a program printed where a pattern has its group.
func number(t *testing.T, text, pattern string) float64 {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in\n%s", pattern, text)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// latencies are those in what dnsperf -v prints, in seconds, ascending. The lines are like "> NOERROR NAME A 0.000121".
func latencies(t *testing.T, text string) []float64 {
	t.Helper()
	var seconds []float64
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[0] != ">" {
			continue
		}
		if s, err := strconv.ParseFloat(fields[4], 64); err == nil {
			seconds = append(seconds, s)
		}
	}
	if len(seconds) == 0 {
		t.Fatalf("dnsperf printed no latencies:\n%.500s", text)
	}
	slices.Sort(seconds)
	return seconds
}

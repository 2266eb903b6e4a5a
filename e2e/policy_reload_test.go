package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// drip is a download that goes on: ten bytes a second of a site's page.
func drip(t *testing.T, c *tryer, host, address string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := c.dial(t, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /drip/100000 HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("got %v, %v; want the download to begin", res, err)
	}
	return conn, r
}

// goesOn wants more of a download.
func goesOn(t *testing.T, r *bufio.Reader) {
	t.Helper()
	if _, err := io.CopyN(io.Discard, r, 5); err != nil {
		t.Fatalf("the download: got %v, want it to go on", err)
	}
}

// isCut wants the end of a download.
func isCut(t *testing.T, r *bufio.Reader) {
	t.Helper()
	if _, err := io.Copy(io.Discard, r); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the download: got %v, want a reset", err)
	}
}

// reloaded is what reload --json prints.
type reloaded struct {
	PolicyGeneration          int
	Blocked, Rerouted, Killed int
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- internet
func TestReloadMeetsLiveFlows(t *testing.T) { eachCarried(t, reloadMeetsLiveFlows) }

// eachCarried runs a test with plain HTTP that ends in penstock, because its client may be shown a page, and that crosses.
func eachCarried(t *testing.T, test func(t *testing.T, port, datapath string)) {
	t.Parallel()
	for port, datapath := range map[string]string{":80": "terminated", ":8880": "forwarded, judged in line"} {
		t.Run(datapath, func(t *testing.T) {
			t.Parallel()
			test(t, port, datapath)
		})
	}
}

// carried wants that the live flows to an address are carried in one way.
func (p *penstock) carried(t *testing.T, to, datapath string) {
	t.Helper()
	n := 0
	for _, f := range p.flows(t) {
		if f.Dst == to {
			if n++; f.Datapath != datapath {
				t.Errorf("a flow to %s is %s, want %s", to, f.Datapath, datapath)
			}
		}
	}
	if n == 0 {
		t.Errorf("no flow to %s is live", to)
	}
}

func reloadMeetsLiveFlows(t *testing.T, port, datapath string) {
	w := newPolicyWorld(t).up(t)
	c := &tryer{w, w.Laptop}
	_, download := drip(t, c, netlab.NewsSite, newsIPv4+port)
	_, other := drip(t, c, netlab.PublicSite, publicIPv4+port)
	keepAlive, err := c.dial(t, "tcp", newsIPv4+port)
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := ask(keepAlive, request(netlab.NewsSite)); err != nil || answer != "this is news.example\n" {
		t.Fatalf("got %q, %v", answer, err)
	}
	w.laptop.carried(t, newsIPv4+port, datapath)
	verdict := func() string {
		story, _, _ := strings.Cut(w.laptop.must(t, "explain", "https://news.example/"), "transport")
		return story
	}
	before := verdict()
	// Not the list file: penstock looks at that by itself.
	w.edit(t, "laptop.yaml", "  - {name: no-gambling,", "  - {name: no-news, match: {domain: "+netlab.NewsSite+"}, do: block}\n  - {name: no-gambling,")

	var r reloaded
	w.laptop.ask(t, &r, "reload", "--dry-run")
	if r.Blocked != 2 || r.Killed != 0 {
		t.Errorf("reload --dry-run: got %+v, want 2 flows that it would block: the download and the idle connection", r)
	}
	if got := verdict(); got != before {
		t.Errorf("after a dry run: got\n%s\nwant what was before:\n%s", got, before)
	}
	generation := r.PolicyGeneration
	goesOn(t, download)

	w.laptop.ask(t, &r, "reload")
	if r.Blocked != 2 || r.Killed != 0 || r.PolicyGeneration <= generation {
		t.Errorf("reload: got %+v, want 2 blocked, none killed, a policy after %d", r, generation)
	}
	goesOn(t, download)
	if _, err := ask(keepAlive, request(netlab.NewsSite)); err == nil {
		t.Error("the next request on a connection from before the reload: got an answer, want its end")
	}
	if got, _ := tlsTo(newsIPv4+":443", netlab.NewsSite, nil)(t, c); got {
		t.Error("a new flow after the reload got through")
	}

	w.laptop.ask(t, &r, "reload", "--kill-denied")
	if r.Killed != 1 {
		t.Errorf("reload --kill-denied: got %+v, want 1 killed", r)
	}
	isCut(t, download)
	goesOn(t, other)

	f := w.laptop.denied(t, newsIPv4+":443")
	x := w.laptop.cli(t, "explain", "--flow", f.ID)
	for _, want := range []string{"no-news", "news.example (sni)", "when it was judged"} {
		if !strings.Contains(x.stdout, want) {
			t.Errorf("explain --flow: got\n%s\nwant %q in it", x, want)
		}
	}
	w.nothingInClear(t)
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- internet
func TestAReloadWhoseTestFailsChangesNothing(t *testing.T) {
	t.Parallel()
	w := newPolicyWorld(t).up(t)
	// Not the list file: penstock looks at that by itself.
	w.edit(t, "laptop.yaml", "  - {name: no-gambling, match: {category: gambling}, do: block}\n", "")
	w.edit(t, "laptop.yaml", "metrics:", "tests: [{to: \"https://casino.example\", expect: block}]\nmetrics:")
	if r := w.laptop.cli(t, "reload"); r.code == 0 || !strings.Contains(r.stderr, "casino.example") {
		t.Errorf("reload: got %s, want a refusal that names the test", r)
	}
	c := &tryer{w, w.Laptop}
	if got, _ := tlsTo(gamblingIPv4+":443", netlab.GamblingSite, nil)(t, c); got {
		t.Error("the old block does not hold any more")
	}
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- internet
func TestATemporaryAllowEndsByItself(t *testing.T) { eachCarried(t, temporaryAllowEndsByItself) }

func temporaryAllowEndsByItself(t *testing.T, port, datapath string) {
	w := newPolicyWorld(t).up(t)
	c := &tryer{w, w.Laptop}
	w.laptop.must(t, "allow", "casino.example", "--for", "4s")
	resolve := dnsAsk("", "udp", "casino.example", "A", gamblingIPv4)
	if got, err := resolve(t, c); !got {
		t.Fatalf("while it is allowed, the name: got %v, want its address", err)
	}
	_, download := drip(t, c, netlab.GamblingSite, gamblingIPv4+port)
	w.laptop.carried(t, gamblingIPv4+port, datapath)
	goesOn(t, download)
	isCut(t, download)

	for _, way := range []way{
		{"the name", resolve, false},
		{"its address", tlsTo(gamblingIPv4+":443", netlab.GamblingSite, nil), false},
		{"its address under a false name", tlsTo(gamblingIPv4+":443", netlab.PublicSite, nil), false},
		{"its address without a name", tlsTo(gamblingIPv4+":443", "", nil), false},
		{"its address with ECH behind an innocent name", tlsWith(gamblingIPv4+":443", encrypted(netlab.GamblingSite, netlab.PublicSite), nil), false},
		{"its address, any port", sendingFor(gamblingIPv4+":8080", "this is", request(netlab.PublicSite)), false},
		{"its address by QUIC under a false name", quicTo(gamblingIPv4+":443", func(t *testing.T) [][]byte { return [][]byte{quicInitial(t, netlab.PublicSite)} }), false},
		{"its address by a protocol without names", func(t *testing.T, c *tryer) (bool, error) {
			conn, err := c.dial(t, "tcp", gamblingIPv4+":22")
			if err != nil {
				return false, err
			}
			n, err := conn.Read(make([]byte, 1))
			return n > 0, err
		}, false},
	} {
		t.Run("afterwards not "+way.sentence, func(t *testing.T) {
			if got, _ := way.try(t, c); got {
				t.Error("it got through")
			}
		})
	}
	for _, want := range []string{`"msg":"decided"`, `"msg":"a decision is over"`} {
		if !strings.Contains(w.laptop.said.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- intranet: the list, internet
func TestASubscriptionComesThroughTheTransport(t *testing.T) {
	t.Parallel()
	w := newPolicyWorld(t,
		"lists: [{file: gambling.txt}]", "lists: [{file: gambling.txt}, {url: \"http://wiki.corp.example:8090/list.txt\", via: corp}], on_missing: allow")
	var list atomic.Pointer[string]
	say := func(s string) { list.Store(&s) }
	say("# of the company\nnews.example\nother.example\nthird.example\n")
	l, err := w.Intranet.Listen(t.Context(), "tcp", ":8090")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, *list.Load()) })}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	w.up(t)
	c := &tryer{w, w.Laptop}
	news := tlsTo(newsIPv4+":443", netlab.NewsSite, nil)
	eventually(t, "the list is in force", func() error {
		if got, _ := news(t, c); got {
			return errors.New("a site that it names is reached")
		}
		return nil
	})
	if got := w.laptop.must(t, "lists", "lookup", "www.news.example"); !strings.Contains(got, "http://wiki.corp.example:8090/list.txt:2") {
		t.Errorf("lists lookup: got %q, want address and line", got)
	}
	if n := w.AccessDNS.Asked("wiki.corp.example"); n > 0 {
		t.Errorf("the access network's resolver was asked for the list's host %d times, want never", n)
	}
	for _, bad := range []string{"<html>sorry</html>", "", "news.example\n"} {
		say(bad)
		if r := w.laptop.cli(t, "lists", "refresh"); r.code == 0 {
			t.Errorf("lists refresh with %q: got %s, want an error", bad, r)
		}
		if got, _ := news(t, c); got {
			t.Errorf("after %q the last good list is not in force", bad)
		}
	}
	// One bad entry costs only itself.
	say("example\nnews.example\nother.example\nthird.example\n")
	w.laptop.must(t, "lists", "refresh")
	if got, _ := news(t, c); got {
		t.Error("beside an entry for a whole top-level domain, the others are not in force")
	}
	if got, err := tlsTo(publicIPv4+":443", netlab.PublicSite, nil)(t, c); !got {
		t.Errorf("a site of a top-level domain that the list names: got %v, want it reached", err)
	}
	say("# of the company\nelsewhere.example\nother.example\nthird.example\n")
	w.laptop.must(t, "lists", "refresh")
	if got, err := news(t, c); !got {
		t.Errorf("a site that the newest list does not name: got %v, want it reached", err)
	}
	w.nothingInClear(t)
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- internet
//
// Reloads of many names while flows begin: no flow to a blocked site gets through, and the time that allowed ones take
// is shown beside that without reloads.
func TestFlowsBeginDuringReloads(t *testing.T) {
	t.Parallel()
	w := newPolicyWorld(t).up(t)
	c := &tryer{w, w.Laptop}
	var names strings.Builder
	for i := range 300_000 {
		fmt.Fprintf(&names, "name%d.example\n", i)
	}
	// flowing begins about 200 flows a second until during returns, a tenth of them to the blocked site.
	flowing := func(during func()) (connects []time.Duration) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex // guards connects
		var over sync.WaitGroup
		for range 4 {
			over.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					time.Sleep(20 * time.Millisecond)
					if i%10 == 0 {
						if err := reachesBlocked(ctx, c); err != nil {
							t.Error(err)
						}
						continue
					}
					begun := time.Now()
					conn, err := c.host.DialContext(ctx, "tcp", newsIPv4+":22")
					if err != nil {
						if ctx.Err() == nil {
							t.Errorf("an allowed flow: %v", err)
						}
						continue
					}
					took := time.Since(begun)
					conn.Close()
					mu.Lock()
					connects = append(connects, took)
					mu.Unlock()
				}
			})
		}
		during()
		cancel()
		over.Wait()
		slices.Sort(connects)
		return connects
	}
	still := flowing(func() { time.Sleep(3 * time.Second) })
	reloading := flowing(func() {
		for i := range 5 {
			w.write(t, "gambling.txt", fmt.Sprintf("casino.example\nextra%d.example\n%s", i, names.String()))
			w.laptop.must(t, "reload")
		}
	})
	for _, r := range []struct {
		when string
		took []time.Duration
	}{{"without reloads", still}, {"during 5 reloads of 300,000 names", reloading}} {
		if len(r.took) == 0 {
			t.Fatalf("%s: no flow began", r.when)
		}
		t.Logf("connect %s: %d flows, median %v, p99 %v", r.when, len(r.took), r.took[len(r.took)/2], r.took[len(r.took)*99/100])
	}
}

// reachesBlocked tries the blocked site once; an error says that it answered.
func reachesBlocked(ctx context.Context, c *tryer) error {
	conn, err := c.host.DialContext(ctx, "tcp", gamblingIPv4+":443")
	if err != nil {
		return nil
	}
	defer conn.Close()
	ears := &heard{Conn: conn}
	_ = tls.Client(ears, &tls.Config{ServerName: netlab.GamblingSite}).HandshakeContext(ctx) // what counts is who answered
	if ears.answered {
		return errors.New("a flow to the blocked site got through")
	}
	return nil
}

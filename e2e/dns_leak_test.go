package e2e

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"penstock/e2e/netlab"
)

// laptop [pen0 -> penstock, lockdown] -- lan0 -- access  (captures) --- internet: foreign resolvers
//
//	\                            \- lan1 -- access2 (captures) -/
//	 ============== WireGuard ==============> [penstock] gateway
//
// 10,000 questions go to every kind of resolver while penstock connects anew, is killed and started, and the laptop
// changes its network. No packet of them is seen outside the tunnel.
func TestNoQuestionLeaks(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: 10,000 questions through a dozen outages")
	}
	w := newWorld(t, "rules:", "always_on: {lockdown: true}\nrules:")
	w.watch(t)
	tunnel := netlab.Endpoint{Network: "udp", Addr: netip.MustParseAddrPort(netlab.GatewayIPv4 + ":51820")}
	second, err := w.Access2.Capture("lan", tunnel)
	if err != nil {
		t.Fatal(err)
	}
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	w.connected(t)

	const questions = 10_000
	events := w.outages(t)
	var asked, answered atomic.Int64
	reached := make(chan int, len(events)) // the next event is due
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for {
				n := asked.Add(1)
				if n > questions {
					return
				}
				if every := int64(questions / (len(events) + 1)); n%every == 0 && int(n/every) <= len(events) {
					reached <- int(n/every) - 1
				}
				if w.askSomebody(int(n)) {
					answered.Add(1)
				}
			}
		})
	}
	for range events {
		i := <-reached
		events[i].happen()
	}
	wg.Wait()
	t.Logf("%d questions, %d answered, through %d outages", questions, answered.Load(), len(events))
	if answered.Load() < questions/10 {
		t.Errorf("%d of %d questions were answered, want many", answered.Load(), questions)
	}
	w.connected(t)

	// The positive control of the second network, while the first has had its own.
	if err := second.Control(t.Context(), w.Laptop, "lan1"); err != nil {
		t.Fatal(err)
	}
	w.nothingInClear(t)
	r := second.Stop()
	if err := r.Err(); err != nil {
		t.Errorf("on the second network: %v", err)
	}
	if r.Tunnel == 0 {
		t.Error("the second network saw no packet of the tunnel, want some")
	}
}

// outage is something that ends connections.
type outage struct {
	what   string
	happen func()
}

// outages are the events of the test, in order.
func (w *world) outages(t *testing.T) []outage {
	reconnect := outage{"reconnect", func() { w.laptop.must(t, "reconnect") }}
	kill := outage{"kill -9 and a start", func() {
		w.laptop.kill(t)
		time.Sleep(200 * time.Millisecond) // questions go on meanwhile
		w.laptop.start(t)
	}}
	change := func(from, to int) outage {
		return outage{"a change of network", func() {
			if err := w.Disconnect(w.Uplinks[from]); err != nil {
				t.Error(err)
			}
			if err := w.Connect(w.Uplinks[to], 0); err != nil {
				t.Error(err)
			}
		}}
	}
	return []outage{reconnect, kill, change(0, 1), reconnect, kill, change(1, 0), kill, reconnect, change(0, 1), kill, reconnect, reconnect}
}

// askSomebody asks one resolver after another in every way that programs have, and says whether there was an answer.
func (w *world) askSomebody(n int) bool {
	ways := []struct{ network, server string }{
		{"udp", "10.77.0.2:53"},                   // ours
		{"tcp", "10.77.0.2:53"},                   // over TCP
		{"udp", "[fd77::2]:53"},                   // over IPv6
		{"udp", "203.0.113.53:53"},                // a public one
		{"tcp", "203.0.113.53:53"},                //
		{"udp", "[2001:db8:113::53]:53"},          //
		{"udp", "203.0.113.99:53"},                // one that is not there
		{"udp", "192.168.50.1:53"},                // that of the access network
		{"udp", "[fd50::1]:53"},                   //
		{"udp", "192.168.60.1:53"},                // and of the other
		{"tcp", "203.0.113.53:853"},               // DoT
		{"udp", "203.0.113.53:853"},               // DoQ
		{"udp", "224.0.0.251:53"},                 // a group
		{"tcp", "[" + netlab.AccessIPv6 + "]:53"}, //
	}
	way := ways[n%len(ways)]
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	conn, err := w.Laptop.DialContext(ctx, way.network, way.server)
	if err != nil {
		return false
	}
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(300*time.Millisecond)) != nil {
		return false
	}
	names := []string{"public.example.", "casino.example.", "intranet.corp.example.", "news.example.", "nowhere.example."}
	kinds := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS}
	c := &dns.Conn{Conn: conn}
	if c.WriteMsg(new(dns.Msg).SetQuestion(names[n%len(names)], kinds[n%len(kinds)])) != nil {
		return false
	}
	_, err = c.ReadMsg()
	return err == nil
}

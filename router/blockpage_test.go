package router

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"penstock/policy"
)

// blockedByDNS reports whether the client looked up a blocked name for the destination.
func blockedByDNS() []policy.Name {
	return []policy.Name{{Host: "bad.bet", From: policy.FromDNS}}
}

func TestARefusedRequestIsAnsweredWithAPage(t *testing.T) {
	categorised := func(f policy.Flow) policy.Verdict {
		v := byName(f)
		if v.Action != policy.Forward {
			v.Category = "<gambling>"
		}
		return v
	}
	rows := []struct {
		name  string
		send  string
		known bool // the name is known before the request is read
		body  string
	}{
		{"that names rule, category and host", "GET / HTTP/1.1\r\nHost: bad.bet\r\n\r\n", false, "<b>bad.bet</b> was refused by the rule <b>no-gambling</b>"},
		{"that escapes what comes from the request or the policy", "GET / HTTP/1.1\r\nHost: bad.bet\r\n\r\n", false, "&lt;gambling&gt;"},
		{"without a body to HEAD", "HEAD / HTTP/1.1\r\nHost: bad.bet\r\n\r\n", false, ""},
		{"however long the request is", "POST / HTTP/1.1\r\nHost: bad.bet\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("x", 20000), false, "no-gambling"},
		{"once, and serves no further request", strings.Repeat("GET / HTTP/1.1\r\nHost: bad.bet\r\n\r\n", 2), false, "no-gambling"},
		{"even if DNS gave the name before", "GET / HTTP/1.1\r\nHost: bad.bet\r\n\r\n", true, "no-gambling"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := Config{Policy: decide(categorised), Ways: ways{}}
			if row.known {
				c.Clients = people{names: blockedByDNS()}
			}
			w := newWorld(t, c)
			client := newClient(t)
			w.handle(client, 80)
			go io.WriteString(client, row.send)
			req := &http.Request{Method: strings.Fields(row.send)[0]}
			res, err := http.ReadResponse(bufio.NewReader(client), req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != http.StatusForbidden || !res.Close {
				t.Errorf("got %d, close %v, %v; want 403 and the connection's end", res.StatusCode, res.Close, err)
			}
			if !strings.Contains(string(body), row.body) || row.body == "" && len(body) > 0 {
				t.Errorf("got %q, want %q in it", body, row.body)
			}
			if strings.Contains(string(body), "<gambling>") || strings.Contains(string(body), "//cdn") {
				t.Errorf("got %q, want it escaped", body)
			}
		})
	}
}

func TestWhatIsNotHTTPGetsNoPage(t *testing.T) {
	for _, send := range []string{"SSH-2.0-x\r\n", "\x16\x03\x01", "\x00\x00\x00"} {
		w := newWorld(t, Config{Policy: decide(byName), Ways: ways{}, Clients: people{names: blockedByDNS()}})
		c := newClient(t)
		w.handle(c, 80)
		fmt.Fprint(c, send)
		c.Conn.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(c)
		if len(got) > 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q: got %q, %v; want a reset", send, got, err)
		}
	}
}

// onceSignedIn is byName for who has signed in, and refuses all others.
func onceSignedIn(signedIn *atomic.Bool) decide {
	return func(f policy.Flow) policy.Verdict {
		if !signedIn.Load() {
			return policy.Verdict{Rule: "sign-in-needed", Cause: policy.BySignIn, SignIn: "http://10.99.0.1/"}
		}
		return byName(f)
	}
}

// TestAConnectionFromBeforeTheSignInGoesOn: browsers open connections before they need them.
func TestAConnectionFromBeforeTheSignInGoesOn(t *testing.T) {
	for _, row := range []struct {
		name, host string
		status     int
	}{
		{"to a site that is open", "wiki.example", http.StatusOK},
		{"to one that stays blocked", "bad.bet", http.StatusForbidden},
	} {
		t.Run(row.name, func(t *testing.T) {
			site := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			defer site.Close()
			var signedIn atomic.Bool
			w := newWorld(t, Config{
				Policy: onceSignedIn(&signedIn), Ways: ways{"out": dialTo(site.Listener.Addr().String())}, SniffTimeout: 20 * time.Second,
			})
			client := newClient(t)
			w.handle(client, 80)
			if got := client.got(t); got != "accepted" {
				t.Fatalf("the connection was %s, want it accepted", got)
			}
			signedIn.Store(true)
			fmt.Fprintf(client, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", row.host)
			res, err := http.ReadResponse(bufio.NewReader(client), nil)
			if err != nil || res.StatusCode != row.status {
				t.Fatalf("got %v, %v; want %d", res, err, row.status)
			}
			client.Close()
			if f := <-w.ended; (f.Verdict.Action == policy.Forward) != (row.status == http.StatusOK) {
				t.Errorf("the flow ended with the verdict %+v", f.Verdict)
			}
		})
	}
}

// What is held of a request when the handler of a flow returns is judged with what follows.
func TestHalfARequestOutlivesTheHandler(t *testing.T) {
	for _, row := range []struct {
		name   string
		before bool // the connection is from before the sign-in
	}{{"of a flow that was open", false}, {"of one that was not", true}} {
		for _, host := range []string{"wiki.example", "bad.bet"} {
			t.Run(row.name+", "+host, func(t *testing.T) {
				site := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
				defer site.Close()
				var signedIn atomic.Bool
				signedIn.Store(!row.before)
				w := newWorld(t, Config{
					Policy: onceSignedIn(&signedIn), Ways: ways{"out": dialTo(site.Listener.Addr().String())}, SniffTimeout: 20 * time.Second,
				})
				w.patience.quiet = time.Millisecond
				client := newClient(t)
				k := kept{client, make(chan struct{})}
				w.wg.Go(func() { w.Handle(t.Context(), requestTo(80, k)) })
				client.got(t)
				signedIn.Store(true)
				fmt.Fprintf(client, "GET / HTTP/1.1\r\nHost: wiki.example\r\n\r\nGET / HTTP/1.1\r\nHost: %s", host[:3])
				answers := bufio.NewReader(client)
				if res, err := http.ReadResponse(answers, nil); err != nil || res.StatusCode != http.StatusOK {
					t.Fatalf("the first request: got %v, %v; want 200", res, err)
				}
				w.wg.Wait() // the handler
				fmt.Fprintf(client, "%s\r\n\r\n", host[3:])
				res, err := http.ReadResponse(answers, nil)
				if open := host != "bad.bet"; open != (err == nil) {
					t.Errorf("the second request: got %v, %v; want an answer: %v", res, err, open)
				}
				client.Close()
				<-k.over
				<-w.ended
				if n := w.heads.total; n != 0 {
					t.Errorf("%d bytes were not given back", n)
				}
			})
		}
	}
}

func TestARequestIsLedToWhereSomebodySignsIn(t *testing.T) {
	signIn := decide(func(policy.Flow) policy.Verdict {
		return policy.Verdict{Rule: "sign-in-needed", Cause: policy.BySignIn, SignIn: "http://10.99.0.1/"}
	})
	for _, row := range []struct {
		request, says string
		status        int
	}{
		{"GET /a?b HTTP/1.1\r\nHost: wiki.example\r\n\r\n", "", http.StatusSeeOther},
		{"HEAD / HTTP/1.1\r\nHost: wiki.example\r\n\r\n", "", http.StatusSeeOther},
		{"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", "", http.StatusSeeOther},
		{"POST / HTTP/1.1\r\nHost: wiki.example\r\nContent-Length: 1\r\n\r\nx", "sign-in-needed", http.StatusForbidden},
	} {
		w := newWorld(t, Config{Policy: signIn, Ways: ways{}})
		client := newClient(t)
		w.handle(client, 80)
		go io.WriteString(client, row.request)
		res, err := http.ReadResponse(bufio.NewReader(client), &http.Request{Method: strings.Fields(row.request)[0]})
		if err != nil {
			t.Fatalf("%q: %v", row.request, err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != row.status || !res.Close || !strings.Contains(string(body), row.says) {
			t.Errorf("%q: got %d, close %v, %q, %v; want %d", row.request, res.StatusCode, res.Close, body, err, row.status)
		}
		if to := res.Header.Get("Location"); (to == "http://10.99.0.1/") != (row.status == http.StatusSeeOther) {
			t.Errorf("%q: led to %q", row.request, to)
		}
	}
}

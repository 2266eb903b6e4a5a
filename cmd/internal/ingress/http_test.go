package ingress

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPlainRequestsAreForwardedHostByHost(t *testing.T) {
	w := newWorld(t)
	c := w.connectTo(t)
	r := bufio.NewReader(c)
	for _, row := range []struct {
		sentence, request string
		status            int
		body, dialed      string
	}{
		{"a request goes to its host", "GET http://one.example/a?x=1;y=%zz HTTP/1.1\r\nHost: one.example\r\n", 200, `GET one.example /a?x=1;y=%zz ""`, "[203.0.113.1:80]"},
		{"the next one uses the same flow", "GET http://one.example/b HTTP/1.1\r\nHost: one.example\r\n", 200, `GET one.example /b ""`, "[]"},
		{"another host has its own, whatever Host says", "GET http://two.example/c HTTP/1.1\r\nHost: one.example\r\n", 200, `GET two.example /c ""`, "[203.0.113.2:80]"},
		{"a body goes along", "POST http://one.example:8080/d HTTP/1.1\r\nHost: one.example\r\nContent-Length: 4\r\n", 200, `POST one.example:8080 /d "body"`, "[203.0.113.1:8080]"},
		{"and one in chunks", "PUT http://one.example/e HTTP/1.1\r\nHost: one.example\r\nTransfer-Encoding: chunked\r\n", 200, `PUT one.example /e "body"`, "[]"},
	} {
		w.took()
		body := ""
		if strings.Contains(row.request, "Length") {
			body = "body"
		} else if strings.Contains(row.request, "chunked") {
			body = "4\r\nbody\r\n0\r\n\r\n"
		}
		if _, err := io.WriteString(c, row.request+login+"\r\n"+body); err != nil {
			t.Fatal(err)
		}
		status, got, _ := get(t, r)
		if _, dialed := w.took(); status != row.status || got != row.body || fmt.Sprint(dialed) != row.dialed {
			t.Errorf("%s: got %d %q by dialling %v, want %d %q by %s", row.sentence, status, got, dialed, row.status, row.body, row.dialed)
		}
	}
	for _, row := range []struct {
		sentence, request string
		status            int
		body              string
	}{
		{"a blocked host is not allowed", "GET http://blocked.example/ HTTP/1.1\r\nHost: one.example\r\n", 403, "rule no-blocked blocks blocked.example"},
		{"nor is an address that the policy refuses", "GET http://127.0.0.1:9477/metrics HTTP/1.1\r\nHost: one.example\r\n", 403, "the policy refuses 127.0.0.1:9477"},
		{"nor a name for one", "GET http://local.example/ HTTP/1.1\r\nHost: one.example\r\n", 403, "the policy refuses 127.0.0.1:80"},
		{"a host that is not there", "GET http://dead.example/ HTTP/1.1\r\nHost: x\r\n", 502, "no route to host"},
		{"a host that nobody knows", "GET http://unknown.example/ HTTP/1.1\r\nHost: x\r\n", 502, "cannot resolve unknown.example"},
		{"silence", "GET http://203.0.113.99/ HTTP/1.1\r\nHost: x\r\n", 504, "no answer from 203.0.113.99:80"},
		{"no host", "GET http:///x HTTP/1.1\r\nHost: x\r\n", 400, ""},
		{"another scheme", "GET https://one.example/ HTTP/1.1\r\nHost: x\r\n", 400, "use CONNECT"},
		{"and another", "GET ftp://one.example/ HTTP/1.1\r\nHost: x\r\n", 400, "use CONNECT"},
		{"a page of the proxy's own", "GET /metrics HTTP/1.1\r\nHost: one.example\r\n", 400, "this is a proxy"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			c := w.connectTo(t)
			if _, err := io.WriteString(c, row.request+login+"\r\n"); err != nil {
				t.Fatal(err)
			}
			if status, body, _ := get(t, bufio.NewReader(c)); status != row.status || !strings.Contains(body, row.body) {
				t.Errorf("got %d %q, want %d %q", status, body, row.status, row.body)
			}
		})
	}
}

func TestABlockedHostDoesNotHideBehindAFlow(t *testing.T) {
	t.Run("block", func(t *testing.T) { testBlockedHost(t, 403, func(w *world) { w.blocked = "one.example" }) })
	t.Run("drop", func(t *testing.T) { testBlockedHost(t, 504, func(w *world) { w.dropped = "one.example" }) })
}

func testBlockedHost(t *testing.T, want int, block func(*world)) {
	w := newWorld(t)
	c := w.connectTo(t)
	r := bufio.NewReader(c)
	ask := func() int {
		if _, err := io.WriteString(c, "GET http://one.example/ HTTP/1.1\r\nHost: one.example\r\n"+login+"\r\n"); err != nil {
			t.Fatal(err)
		}
		status, _, _ := get(t, r)
		return status
	}
	if status := ask(); status != 200 {
		t.Fatalf("got %d", status)
	}
	w.mu.Lock()
	block(w)
	w.mu.Unlock()
	if status := ask(); status != want {
		t.Errorf("got %d for a host that is blocked by now, and to which there is a connection, want %d", status, want)
	}
}

func TestWhatIsForTheProxyStaysThere(t *testing.T) {
	w := newWorld(t)
	c := w.connectTo(t)
	if _, err := io.WriteString(c, "GET http://u:p@one.example/ HTTP/1.1\r\nHost: one.example\r\n"+login+
		"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nProxy-Connection: keep-alive\r\nKeep-Alive: 5\r\nTE: gzip\r\nX-Forwarded-For: 192.0.2.7\r\nX-End: 2\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := get(t, bufio.NewReader(c)); status != 200 {
		t.Fatalf("got %d", status)
	}
	h := w.seen[0].Header
	for _, gone := range []string{"Proxy-Authorization", "Authorization", "Proxy-Connection", "Keep-Alive", "X-Hop", "Te", "User-Agent", "Accept-Encoding"} {
		if got := h.Values(gone); len(got) > 0 {
			t.Errorf("the server got %s: %q", gone, got)
		}
	}
	for name, want := range map[string]string{"X-End": "2", "X-Forwarded-For": "192.0.2.7", "Via": "1.1 penstock"} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: the server got %q, want %q", name, got, want)
		}
	}
}

// TestSmuggling sends requests whose end can be read in two ways. What the server gets must be one request that can be read in one
// way alone, or nothing.
func TestSmuggling(t *testing.T) {
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: evil.example\r\n\r\n"
	const control = "a request that can be read in one way"
	for _, row := range []struct{ sentence, fields, body string }{
		{control, "Content-Length: 5\r\n", "hello"},
		{"a length and chunks", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + smuggled},
		{"chunks and a length", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "5c\r\n" + smuggled + "\r\n0\r\n\r\n"},
		{"two lengths", "Content-Length: 0\r\nContent-Length: 47\r\n", smuggled},
		{"a list of lengths", "Content-Length: 0, 47\r\n", smuggled},
		{"a length with a sign", "Content-Length: +0\r\n", smuggled},
		{"a coding with another name", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n" + smuggled},
		{"two codings", "Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n" + smuggled},
		{"a space before the colon", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n" + smuggled},
		{"a folded field", "X: y\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n" + smuggled},
		{"a bare CR in a field", "X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + smuggled},
		{"a NUL in a field", "X: y\x00Transfer-Encoding: chunked\r\n", "0\r\n\r\n" + smuggled},
		{"two hosts", "Host: evil.example\r\n", ""},
		{"a bad size of a chunk", "Transfer-Encoding: chunked\r\n", "0x1\r\nz\r\n0\r\n\r\n"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			w := newWorld(t)
			got := w.listenRaw(t)
			c := w.connectTo(t)
			if _, err := io.WriteString(c, "POST http://one.example/ HTTP/1.1\r\nHost: one.example\r\n"+login+row.fields+"\r\n"+row.body); err != nil {
				t.Fatal(err)
			}
			c.SetReadDeadline(time.Now().Add(2 * time.Second)) // a proxy that waits for more is as good as one that refuses
			_, _ = io.Copy(io.Discard, c)
			c.Close()
			all := got()
			if row.sentence == control && len(all) != 1 {
				t.Fatalf("the server got %q: the other rows prove nothing", all)
			}
			for _, sent := range all {
				t.Logf("the server got %q", sent)
				r := bufio.NewReader(strings.NewReader(sent))
				q, err := http.ReadRequest(r)
				if err != nil {
					t.Errorf("the server got what is no request: %q", sent)
					continue
				}
				head, _, _ := strings.Cut(sent, "\r\n\r\n")
				if q.Host != "one.example" || contains(head, "\r\nContent-Length:", "\r\nTransfer-Encoding:") || strings.Count(head, "Host:") != 1 {
					t.Errorf("the server got %q", sent)
				}
				_, _ = io.Copy(io.Discard, q.Body)
				if rest, _ := io.ReadAll(r); len(rest) > 0 {
					t.Errorf("after its end the request goes on: %q", sent)
				}
			}
		})
	}
}

// listenRaw lets all flows lead to a server that answers every connection once, and returns what it has got on each.
func (w *world) listenRaw(t *testing.T) (got func() []string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.raw = l
	var mu sync.Mutex
	var all []string
	var over sync.WaitGroup
	over.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			over.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(time.Second))
				first := make([]byte, 1<<16)
				n, _ := c.Read(first)
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				rest, _ := io.ReadAll(c)
				mu.Lock()
				defer mu.Unlock()
				if n > 0 {
					all = append(all, string(first[:n])+string(rest))
				}
			})
		}
	})
	return func() []string {
		l.Close()
		over.Wait()
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

func TestCONNECTHasNoBody(t *testing.T) {
	w := newWorld(t)
	for _, field := range []string{"Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"} {
		if answer := w.tell(t, "CONNECT one.example:22 HTTP/1.1\r\nHost: x\r\n"+login+field+"\r\nhello"); !strings.HasPrefix(answer, "HTTP/1.1 400 ") {
			t.Errorf("%s: got %q", field, answer)
		}
	}
	for _, to := range []string{"one.example", ":22", "one.example:99999", "one.example:x", "/path", "u@one.example:22", "one.example:22/x", "*"} {
		if answer := w.tell(t, "CONNECT "+to+" HTTP/1.1\r\nHost: one.example:22\r\n"+login+"\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 400 ") {
			t.Errorf("CONNECT %s: got %q", to, answer)
		}
	}
	if _, dialed := w.took(); len(dialed) > 0 {
		t.Errorf("dialled %v", dialed)
	}
}

func TestALargeHeadIsRefused(t *testing.T) {
	w := newWorld(t)
	answer := w.tell(t, "GET http://one.example/ HTTP/1.1\r\nHost: one.example\r\n"+login+"X: "+strings.Repeat("x", 2*maxHead)+"\r\n\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.1 431 ") {
		t.Errorf("got %q", answer)
	}
}

func TestAConnectionHasOneUser(t *testing.T) {
	w := newWorld(t)
	w.others = true
	c := w.connectTo(t)
	r := bufio.NewReader(c)
	for _, row := range []struct {
		login  string
		status int
	}{{login, 200}, {strings.Replace(login, "YW5hOnNlY3JldA==", "YmVuOnNlY3JldA==", 1), 503}} {
		if _, err := io.WriteString(c, "GET http://one.example/ HTTP/1.1\r\nHost: one.example\r\n"+row.login+"\r\n"); err != nil {
			t.Fatal(err)
		}
		if status, _, _ := get(t, r); status != row.status {
			t.Errorf("%s got %d, want %d", row.login, status, row.status)
		}
	}
}

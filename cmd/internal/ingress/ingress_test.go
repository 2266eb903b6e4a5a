package ingress

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"penstock/cmd/internal/config"
	"penstock/router"
)

// hello is a request whose answer shows that a flow works.
const hello = "GET /x HTTP/1.1\r\nHost: inside.example\r\nConnection: close\r\n\r\n"

// works is what the answer holds.
const works = `GET inside.example /x ""`

func TestWhatClientsAskForOverSOCKSAndCONNECT(t *testing.T) {
	w := newWorld(t)
	for _, row := range []struct {
		sentence, host string
		port           int
		code           byte // of SOCKS; 0xff: the connection is closed without an answer
		status         int
		dialed         string
	}{
		{"a name is resolved here and dialled", "one.example", 22, 0, 200, "[203.0.113.1:22]"},
		{"and in other letters", "ONE.Example.", 22, 0, 200, "[203.0.113.1:22]"},
		{"an address is dialled", "203.0.113.1", 22, 0, 200, "[203.0.113.1:22]"},
		{"over IPv6 too", "2001:db8::1", 22, 0, 200, "[[2001:db8::1]:22]"},
		{"IPv4 within IPv6 is IPv4", "::ffff:203.0.113.1", 22, 0, 200, "[203.0.113.1:22]"},
		{"the next address is tried", "both.example", 22, 0, 200, "[203.0.113.66:22 203.0.113.1:22]"},
		{"of the other family too", "six.example", 22, 0, 200, "[203.0.113.66:22 [2001:db8::1]:22]"},
		{"a name that is withheld for one family may be open for the other", "hidden4.example", 22, 0, 200, "[[2001:db8::1]:22]"},
		{"a blocked name is not allowed", "blocked.example", 22, 2, 403, "[]"},
		{"nor is a refused address", "127.0.0.1", 22, 2, 403, "[]"},
		{"nor is a name for one", "local.example", 22, 2, 403, "[]"},
		{"a host that is not there is unreachable", "dead.example", 22, 4, 502, "[203.0.113.66:22]"},
		{"a closed port is refused", "203.0.113.67", 22, 5, 502, "[203.0.113.67:22]"},
		{"a network is unreachable", "203.0.113.68", 22, 3, 502, "[203.0.113.68:22]"},
		{"a transport that is down is a failure", "203.0.113.69", 22, 1, 502, "[203.0.113.69:22]"},
		{"silence is silence", "203.0.113.99", 22, 0xff, 504, "[]"},
		{"a name without an address", "none.example", 22, 4, 502, "[]"},
		{"so is one that the client may not know of", "closed.example", 22, 4, 502, "[]"},
		{"even if a rule wants silence", "quiet.example", 22, 4, 502, "[]"},
		{"a name that nobody knows", "unknown.example", 22, 4, 502, "[]"},
		{"a name that is none", "a..b", 22, 4, 400, "[]"},
		{"port 0", "one.example", 0, 4, 400, "[]"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			w.took()
			request := named(row.host, row.port)
			if strings.Contains(row.sentence, "address is dialled") || strings.Contains(row.host, "::") {
				request = literal(row.host, row.port)
			}
			answer := w.tell(t, greeting+request+hello)
			want := "\x05\x02\x01\x00\x05" + string(rune(row.code)) + "\x00\x01\x00\x00\x00\x00\x00\x00"
			if row.code == 0xff {
				want = "\x05\x02\x01\x00"
			}
			if !strings.HasPrefix(answer, want) || (row.code == 0) != strings.Contains(answer, works) || row.code != 0 && answer != want {
				t.Errorf("SOCKS5: got %q, want %q and, if that is success, the answer to the request", answer, want)
			}
			if _, dialed := w.took(); fmt.Sprint(dialed) != row.dialed {
				t.Errorf("SOCKS5: dialled %v, want %s", dialed, row.dialed)
			}
			to := net.JoinHostPort(row.host, fmt.Sprint(row.port))
			answer = w.tell(t, "CONNECT "+to+" HTTP/1.1\r\nHost: elsewhere.example\r\n"+login+"\r\n"+hello)
			if !strings.HasPrefix(answer, fmt.Sprintf("HTTP/1.1 %d ", row.status)) || (row.status == 200) != strings.Contains(answer, works) {
				t.Errorf("CONNECT: got %q, want %d and, if that is 200, the answer to the request", answer, row.status)
			}
			if strings.Contains(answer, "its key") {
				t.Errorf("the client is told what is none of its business: %q", answer)
			}
			if _, dialed := w.took(); fmt.Sprint(dialed) != row.dialed {
				t.Errorf("CONNECT: dialled %v, want %s", dialed, row.dialed)
			}
		})
	}
	connect := "CONNECT %s:443 HTTP/1.1\r\nHost: x\r\n" + login + "\r\n"
	closed, none := w.tell(t, fmt.Sprintf(connect, "closed.example")), w.tell(t, fmt.Sprintf(connect, "none.example"))
	if !strings.Contains(closed, "closed.example has no address") || withoutDate(closed) != withoutDate(strings.ReplaceAll(none, "none", "closed")) {
		t.Errorf("a name that the client may not know of: got %q, and for one without an address %q", closed, none)
	}
	if answer := w.tell(t, "GET http://closed.example/ HTTP/1.1\r\nHost: x\r\n"+login+"\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 502 ") {
		t.Errorf("a request for a name that the client may not know of: got %q, want 502", answer)
	}
	if answer := w.tell(t, "CONNECT blocked.example:443 HTTP/1.1\r\nHost: x\r\n"+login+"\r\n"); !strings.Contains(answer, "rule no-blocked blocks blocked.example") {
		t.Errorf("got %q, want the rule that blocks", answer)
	}
}

func TestNobodyComesInWithoutALogin(t *testing.T) {
	w := newWorld(t)
	const to = "CONNECT one.example:22 HTTP/1.1\r\nHost: x\r\n"
	for _, row := range []struct{ sentence, sent, told string }{
		{"SOCKS5 without a login", "\x05\x01\x00" + named("one.example", 22), "\x05\xff"},
		{"SOCKS5 with a wrong password", "\x05\x01\x02\x01\x03ana\x06Secret" + named("one.example", 22), "\x05\x02\x01\x01"},
		{"SOCKS5 as somebody else", "\x05\x01\x02\x01\x03ben\x06secret" + named("one.example", 22), "\x05\x02\x01\x01"},
		{"SOCKS4", "\x04\x01\x00\x16\xcb\x00\x71\x01\x00", "HTTP/1.1 400 "},
		{"TLS", "\x16\x03\x01\x00\x05hello", "HTTP/1.1 400 "},
		{"nothing", "", ""},
		{"CONNECT without a login", to + "\r\n", "HTTP/1.1 407 "},
		{"CONNECT with a wrong password", to + "Proxy-Authorization: Basic YW5hOlNlY3JldA==\r\n\r\n", "HTTP/1.1 407 "},
		{"CONNECT with something else", to + "Proxy-Authorization: Bearer YW5hOnNlY3JldA==\r\n\r\n", "HTTP/1.1 407 "},
		{"CONNECT with no base64", to + "Proxy-Authorization: Basic ana:secret\r\n\r\n", "HTTP/1.1 407 "},
		{"CONNECT with two logins", to + login + login + "\r\n", "HTTP/1.1 407 "},
		{"CONNECT with the login of a server", to + "Authorization: Basic YW5hOnNlY3JldA==\r\n\r\n", "HTTP/1.1 407 "},
		{"a plain request without a login", "GET http://one.example/ HTTP/1.1\r\nHost: one.example\r\n\r\n", "HTTP/1.1 407 "},
		{"a question about the proxy", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 407 "},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 "},
		{"a page of the proxy's own", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 407 "},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			if answer := w.tell(t, row.sent); !strings.HasPrefix(answer, row.told) || row.told == "" && answer != "" {
				t.Errorf("got %q, want %q", answer, row.told)
			}
			if asked, dialed := w.took(); len(asked)+len(dialed) > 0 {
				t.Errorf("asked for %v and dialled %v", asked, dialed)
			}
		})
	}
}

func TestThisMachineNeedsNoLogin(t *testing.T) {
	w := newWorld(t)
	w.open = true
	for _, sent := range []string{"\x05\x01\x00" + named("one.example", 22) + hello, greeting + named("one.example", 22) + hello, "CONNECT one.example:22 HTTP/1.1\r\nHost: x\r\n\r\n" + hello} {
		if answer := w.tell(t, sent); !strings.Contains(answer, works) {
			t.Errorf("%q: got %q", sent, answer)
		}
	}
}

func TestOtherCommandsAreRefused(t *testing.T) {
	w := newWorld(t)
	for sent, code := range map[string]byte{
		"\x05\x02\x00\x01\x01\x02\x03\x04\x00\x50": 7, // BIND
		"\x05\x01\x00\x05\x01\x02\x03\x04\x00\x50": 8,
	} {
		if answer := w.tell(t, greeting+sent); len(answer) < 6 || answer[5] != code {
			t.Errorf("%q: got %q, want code %d", sent, answer, code)
		}
	}
}

func TestGuessingIsLimited(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	w.attempts.clock = func() time.Time { return now }
	guess := func(name, password string) bool {
		answer := w.tell(t, fmt.Sprintf("\x05\x01\x02\x01%c%s%c%s", len(name), name, len(password), password)+named("one.example", 22)+hello)
		return strings.Contains(answer, works)
	}
	for i := range maxWrong {
		if guess("ana", fmt.Sprint("guess", i)) {
			t.Fatal("a guess came in")
		}
	}
	if guess("ana", "secret") {
		t.Error("after many wrong passwords the next one is still looked at")
	}
	now = now.Add(wrongWindow)
	if !guess("ana", "secret") {
		t.Error("ana cannot come in later either")
	}
	for i := range maxSources + 100 {
		w.attempts.failed(source{name: fmt.Sprint(i)})
	}
	if n := len(w.attempts.wrong); n > maxSources {
		t.Errorf("%d sources are remembered, want at most %d", n, maxSources)
	}
}

func TestNobodyTakesAllPlaces(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Limits.ProxyConnections = 16 })
	in := func() bool {
		c, err := net.Dial("tcp", w.port())
		if err != nil {
			return false
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(c, greeting+named("one.example", 22)); err != nil {
			return false
		}
		b := make([]byte, 14)
		_, err = io.ReadFull(c, b)
		return err == nil && b[5] == 0
	}
	w.connectTo(t) // and never logs in
	w.connectTo(t)
	eventually(t, "two are waiting", func() bool { return len(w.visitors()) == 2 })
	if answer := w.tell(t, greeting+named("one.example", 22)+hello); answer != "" {
		t.Errorf("a source with two that never log in has a third: got %q", answer)
	}
	for _, v := range w.visitors() {
		v.Abort()
	}
	for i := range 8 {
		if !in() {
			t.Fatalf("connection %d is refused", i+1)
		}
	}
	if in() {
		t.Error("ana has more than half of the places")
	}
}

func TestASilentClientIsLetGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, begin := range []string{"", "\x05\x01", "GET http://one.exam"} {
		c := w.connectTo(t)
		if _, err := io.WriteString(c, begin); err != nil {
			t.Fatal(err)
		}
		defer func() {
			c.SetDeadline(time.Now().Add(3 * handshakeTime))
			_, _ = io.Copy(io.Discard, c) // ends when the port closes it
		}()
	}
	eventually(t, "they are gone", func() bool { return len(w.visitors()) == 0 })
}

func TestWhatAClientHasEndsWithItsLogin(t *testing.T) {
	w := newWorld(t)
	tunnel, plain := w.connectTo(t), w.connectTo(t)
	if _, err := io.WriteString(tunnel, greeting+named("one.example", 22)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(tunnel, make([]byte, 14)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(plain, "GET http://one.example/half HTTP/1.1\r\nHost: one.example\r\n"+login+"\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(plain)
	for line := ""; line != "half"; { // the body has come as far as it comes
		b, err := r.ReadString('\n')
		if line = strings.TrimSpace(b); err != nil {
			t.Fatal(err)
		}
		if line == "4" {
			line = "half"
		}
	}
	if n := w.router.Active(); n != 2 {
		t.Fatalf("got %d flows, want one for each", n)
	}
	w.mu.Lock()
	w.out = true
	w.mu.Unlock()
	eventually(t, "all flows have ended", func() bool { return w.router.Active() == 0 })
	if b, err := io.ReadAll(tunnel); err == nil {
		t.Errorf("the tunnel ended well, with %q", b)
	}
	if b, err := io.ReadAll(r); err == nil || strings.HasSuffix(string(b), "0\r\n\r\n") {
		t.Errorf("half an answer ended like a whole one: %q, %v", b, err)
	}
	if answer := w.tell(t, greeting+named("one.example", 22)+hello); strings.Contains(answer, works) {
		t.Error("ana is in again")
	}
}

func TestAKilledFlowEndsItsConnections(t *testing.T) {
	w := newWorld(t)
	c := w.connectTo(t)
	if _, err := io.WriteString(c, "GET http://one.example/half HTTP/1.1\r\nHost: one.example\r\n"+login+"\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Fatalf("got %q, %v", line, err)
	}
	w.router.Kill(func(f router.Flow) bool { return f.Facts.Client == anasKey })
	if b, _ := io.ReadAll(r); strings.HasSuffix(string(b), "0\r\n\r\n") {
		t.Errorf("half an answer ended like a whole one: %q", b)
	}
}

func TestFlowsCountBytesAndNameTheirClient(t *testing.T) {
	w := newWorld(t)
	c := w.connectTo(t)
	if _, err := io.WriteString(c, greeting+named("one.example", 22)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 14)); err != nil {
		t.Fatal(err)
	}
	request := strings.Replace(hello, "Connection: close\r\n", "", 1)
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := get(t, bufio.NewReader(c)); status != 200 {
		t.Fatalf("got %d", status)
	}
	eventually(t, "the flow is hers, with its bytes", func() bool { // they are counted when they have been written
		flows := w.router.Flows()
		if len(flows) != 1 {
			return false
		}
		f := flows[0]
		return f.Facts.Client == anasKey && f.Facts.Src.String() == c.LocalAddr().String() && f.TxBytes == uint64(len(request)) && f.RxBytes >= uint64(len(works))
	})
}

func TestAnOldPlanKeepsADoorShut(t *testing.T) {
	open, shut := &Plan{open: true}, &Plan{}
	if _, ok := open.After(shut).Open(); ok {
		t.Error("a reload opens a port that wanted logins")
	}
	if _, ok := open.After(open).Open(); !ok {
		t.Error("a reload shuts an open port that stays open")
	}
	if _, ok := shut.After(open).Open(); ok {
		t.Error("a reload leaves a port open that wants logins now")
	}
}

func TestAClientWaitsForItsRate(t *testing.T) {
	w := newWorld(t)
	var up, down, held atomic.Int64 // held: how long to wait
	w.Spend = func(client uint64, isUp bool, n int) time.Duration {
		if client != anasKey {
			t.Errorf("somebody is counted as %d", client)
		}
		if isUp {
			up.Add(int64(n))
		} else {
			down.Add(int64(n))
		}
		return time.Duration(held.Load())
	}
	for _, request := range []string{
		greeting + named("one.example", 22) + hello, "CONNECT one.example:22 HTTP/1.1\r\nHost: x\r\n" + login + "\r\n" + hello,
		"GET http://one.example/ HTTP/1.1\r\nHost: one.example\r\nConnection: close\r\n" + login + "\r\n",
	} {
		up.Store(0)
		down.Store(0)
		c := w.connectTo(t)
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(c)
		c.Close()
		if said := string(answer); !strings.Contains(said, "200 OK") || up.Load() < 20 || down.Load() < int64(len(works)) {
			t.Errorf("%.20q: got %q, and %d bytes up and %d down were counted", request, said, up.Load(), down.Load())
		}
	}
	eventually(t, "they are over", func() bool { return w.router.Active() == 0 })
	held.Store(int64(time.Hour))
	up.Store(0)
	c := w.connectTo(t)
	if _, err := io.WriteString(c, greeting+named("one.example", 22)+hello); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it waits", func() bool { return up.Load() > 0 && w.router.Active() == 1 })
	c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if said, _ := io.ReadAll(c); strings.Contains(string(said), "200 OK") {
		t.Errorf("it did not wait: got %q", said)
	}
	w.router.Kill(func(router.Flow) bool { return true })
	eventually(t, "what waits ends with its flow", func() bool { return w.router.Active() == 0 })
}

// withoutDate returns an HTTP answer but for what differs between two of the same: the date, and the length of the body.
func withoutDate(answer string) string {
	return regexp.MustCompile(`(Date|Content-Length): [^\r]*\r\n`).ReplaceAllString(answer, "")
}

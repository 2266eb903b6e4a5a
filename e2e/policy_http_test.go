package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"penstock/e2e/netlab"
)

// the lab's sites say for whom they take a request.
const reached = "this is casino.example"

// ask sends a request on a connection and returns its answer's body.
func ask(conn net.Conn, request string) (string, error) {
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	res, err := http.ReadResponse(bufio.NewReaderSize(conn, 1<<16), nil)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

// sending sends parts with pauses between them and looks for a site's answer in all that comes back.
func sending(address string, pause time.Duration, parts ...string) func(*testing.T, *tryer) (bool, error) {
	return func(t *testing.T, c *tryer) (bool, error) {
		conn, err := c.dial(t, "tcp", address)
		if err != nil {
			return false, err
		}
		go func() {
			for _, part := range parts {
				if _, err := io.WriteString(conn, part); err != nil {
					return
				}
				time.Sleep(pause)
			}
		}()
		var got bytes.Buffer
		buf := make([]byte, 4096)
		for !strings.Contains(strings.ToLower(got.String()), reached) {
			n, err := conn.Read(buf)
			got.Write(buf[:n])
			if err != nil {
				return false, fmt.Errorf("%w after %q", err, got.String())
			}
			if pause == 0 && bytes.Contains(got.Bytes(), []byte(" 400 Bad Request")) {
				return false, fmt.Errorf("got %q", got.String())
			}
		}
		return true, nil
	}
}

// request is one to a host, with more fields.
func request(host string, fields ...string) string {
	return "GET / HTTP/1.1\r\nHost: " + host + "\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
}

// inBytes cuts a text into its bytes.
func inBytes(s string) []string { return strings.Split(s, "") }

func waysInHTTP() []way {
	const site, site6, other = gamblingIPv4 + ":80", "[" + gamblingIPv6 + "]:80", publicIPv4 + ":80"
	simple := func(sentence, text string) way { return way{sentence, sending(site, 0, text), false} }
	futile := func(sentence, text string) way { return way{sentence, sending(site, 0, text), true} }
	return []way{
		simple("HTTP to the address, the name in Host", request("casino.example")),
		{"HTTP to another site's address", sending(other, 0, request("casino.example")), false},
		{"HTTP over IPv6", sending(site6, 0, request("casino.example")), false},
		{"HTTP to an IPv4-mapped address", sending("[::ffff:"+gamblingIPv4+"]:80", 0, request("casino.example")), false},
		{"HTTP on port 8080", sending(gamblingIPv4+":8080", 0, request("casino.example")), false},
		simple("Host in upper case", request("CASINO.EXAMPLE")),
		simple("Host with a trailing dot", request("casino.example.")),
		simple("Host with a port", request("casino.example:80")),
		simple("Host with all of these", request("Casino.EXAMPLE.:80")),
		simple("Host with blanks around it", "GET / HTTP/1.1\r\nHost: \t casino.example \t\r\n\r\n"),
		simple("host as the name of the field", "GET / HTTP/1.1\r\nhOST:casino.example\r\n\r\n"),
		simple("HTTP/1.0", "GET / HTTP/1.0\r\nHost: casino.example\r\n\r\n"),
		simple("an absolute-form request", "GET http://casino.example/ HTTP/1.1\r\nHost: casino.example\r\n\r\n"),
		simple("an absolute-form request whose Host is innocent", "GET http://casino.example/ HTTP/1.1\r\nHost: public.example\r\n\r\n"),
		simple("an absolute-form request with a user", "GET http://public.example@casino.example/ HTTP/1.1\r\nHost: public.example\r\n\r\n"),
		futile("an innocent absolute-form request whose Host is not", "GET http://public.example/ HTTP/1.1\r\nHost: casino.example\r\n\r\n"),
		simple("lines that end with LF alone", "GET / HTTP/1.1\nHost: casino.example\n\n"),
		futile("empty lines before the request", "\r\n\r\n"+request("casino.example")),
		simple("Host behind 20 KiB of other fields", "GET / HTTP/1.1\r\nX: "+strings.Repeat("x", 20<<10)+"\r\nHost: casino.example\r\n\r\n"),
		{"a request in segments of one byte", sending(site, time.Millisecond, inBytes(request("casino.example"))...), false},
		{"a request that stalls in its Host", sending(site, 600*time.Millisecond, "GET / HTTP/1.1\r\nHost: casi", "no.example\r\n\r\n"), false},
		{"a request that stalls in its first word", sending(site, 600*time.Millisecond, "G", "ET / HTTP/1.1\r\nHost: casino.example\r\n\r\n"), false},
		{"a request that waits until the budget is over", sending(other, 700*time.Millisecond, "", request("casino.example")), false},
		{"the second request on a connection", sending(other, 300*time.Millisecond, request("public.example"), request("casino.example")), false},
		{"a pipelined second request", sending(other, 0, request("public.example")+request("casino.example")), false},
		{"a request behind a body with a length", sending(other, 0, "POST /sink HTTP/1.1\r\nHost: public.example\r\nContent-Length: 5\r\n\r\n12345"+request("casino.example")), false},
		{"a request behind a body in chunks", sending(other, 0, "POST /sink HTTP/1.1\r\nHost: public.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n"+request("casino.example")), false},
		{"a request behind an upgrade that was refused", sending(other, 300*time.Millisecond, request("public.example", "Connection: Upgrade", "Upgrade: websocket"), request("casino.example")), false},
		{"a WebSocket upgrade", sending(site, 0, request("casino.example", "Connection: Upgrade", "Upgrade: websocket")), false},
		futile("two Host fields", "GET / HTTP/1.1\r\nHost: public.example\r\nHost: casino.example\r\n\r\n"),
		futile("a folded field", "GET / HTTP/1.1\r\nHost:\r\n casino.example\r\n\r\n"),
		futile("a blank before the colon", "GET / HTTP/1.1\r\nHost : casino.example\r\n\r\n"),
		futile("NUL in Host", request("casino.example\x00.public.example")),
		futile("CONNECT", "CONNECT casino.example:443 HTTP/1.1\r\nHost: casino.example:443\r\n\r\n"),
		{"HTTP/2 with prior knowledge", priorKnowledge("casino.example"), true},
		{"HTTP/2 with prior knowledge, the second stream", priorKnowledge("public.example", "casino.example"), true},
		simple("a name in Unicode", "GET / HTTP/1.1\r\nHost: xn--glcksspiel-feb.example\r\nX: casino.example\r\n\r\n").saying("this is xn--glcksspiel-feb.example"),
		{"Host an address, at a site where what has no name is refused", sendingFor(adultIPv4+":80", "this is "+adultIPv4, request(adultIPv4)), false},
	}
}

// saying is a way in plain HTTP with another answer that tells that it got through.
func (w way) saying(want string) way {
	w.try = sendingFor(gamblingIPv4+":80", want, request(strings.TrimPrefix(want, "this is ")))
	return w
}

// sendingFor sends a request and looks for an answer.
func sendingFor(address, want, text string) func(*testing.T, *tryer) (bool, error) {
	return func(t *testing.T, c *tryer) (bool, error) {
		conn, err := c.dial(t, "tcp", address)
		if err != nil {
			return false, err
		}
		answer, err := ask(conn, text)
		return strings.Contains(answer, want), err
	}
}

// priorKnowledge speaks HTTP/2 in clear, a stream for each authority. The lab's servers don't: whatever they answer
// says that the last stream was let through to them.
func priorKnowledge(authorities ...string) func(*testing.T, *tryer) (bool, error) {
	return func(t *testing.T, c *tryer) (bool, error) {
		conn, err := c.dial(t, "tcp", publicIPv4+":8080")
		if err != nil {
			return false, err
		}
		var got bytes.Buffer
		over := make(chan error, 1)
		go func() {
			_, err := io.Copy(&got, conn)
			over <- err
		}()
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
			return false, err
		}
		f := http2.NewFramer(conn, nil)
		if err := f.WriteSettings(); err != nil {
			return false, err
		}
		var block bytes.Buffer
		e := hpack.NewEncoder(&block)
		for i, authority := range authorities {
			block.Reset()
			for _, field := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/"}, {Name: ":authority", Value: authority}} {
				if err := e.WriteField(field); err != nil {
					return false, err
				}
			}
			err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
			if err != nil {
				return false, err
			}
		}
		err = <-over
		return len(authorities) == 1 && got.Len() > 0, err
	}
}

// websocket asks a server of its own to switch, and speaks the other protocol then.
func websocket(t *testing.T, c *tryer) (bool, error) {
	l, err := c.Internet.Listen(t.Context(), "tcp", newsIPv4+":8443")
	if err != nil {
		return false, err
	}
	defer l.Close()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		rw.Flush()
		io.Copy(conn, rw)
	})}
	go srv.Serve(l)
	defer srv.Close()
	conn, err := c.dial(t, "tcp", newsIPv4+":8443")
	if err != nil {
		return false, err
	}
	if _, err := io.WriteString(conn, request(netlab.NewsSite, "Connection: Upgrade", "Upgrade: websocket")); err != nil {
		return false, err
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		return false, fmt.Errorf("got %v, %w", res, err)
	}
	frame := "\x82\x04\x00\x01\x02\x03"
	if _, err := io.WriteString(conn, frame); err != nil {
		return false, err
	}
	got := make([]byte, len(frame))
	_, err = io.ReadFull(r, got)
	return string(got) == frame, err
}

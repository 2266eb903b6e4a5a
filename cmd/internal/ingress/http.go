package ingress

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"penstock/policy"
)

// maxHead is how many bytes the head of a request may have.
const maxHead = 64 << 10

// visitorKey is the key of the visitor in the context of its requests.
type visitorKey struct{}

// httpServer returns the server of the port's HTTP side. Its handlers end with ctx.
func (s *Server) httpServer(ctx context.Context) *http.Server {
	return &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serveHTTP(ctx, w, r) }),
		ReadHeaderTimeout: handshakeTime,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHead,
		ErrorLog:          log.New(io.Discard, "", 0), // what clients send wrong is theirs to know

		DisableGeneralOptionsHandler: true, // it would answer before the login
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			c.SetDeadline(time.Time{}) // the server sets its own
			return context.WithValue(ctx, visitorKey{}, c)
		},
	}
}

// serveHTTP serves one request of a client. ctx is the server's.
func (s *Server) serveHTTP(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	if !s.tasks.begin() {
		return
	}
	defer s.tasks.wg.Done()
	v := r.Context().Value(visitorKey{}).(*visitor)
	who, ok := s.authenticate(v, w, r)
	if !ok {
		return
	}
	switch {
	case !s.enter(v, who):
		say(w, http.StatusServiceUnavailable, errors.New("too many connections, or another user on this one"))
	case r.Method == http.MethodConnect:
		s.connect(ctx, v, w, r)
	case r.URL.Scheme == "http" && r.URL.Host != "":
		s.forward(ctx, v, w, r)
	case r.URL.Host != "":
		say(w, http.StatusBadRequest, errors.New("only http:// is forwarded: use CONNECT for anything else"))
	default:
		say(w, http.StatusBadRequest, errors.New("this is a proxy: it has no pages"))
	}
}

// authenticate returns whose request it is. If it is nobody's, it answers.
func (s *Server) authenticate(v *visitor, w http.ResponseWriter, r *http.Request) (Login, bool) {
	given := r.Header["Proxy-Authorization"]
	delete(r.Header, "Proxy-Authorization") // nobody else may see it
	if who, open := s.Users.Open(); open {
		return who, true
	}
	if len(given) == 1 {
		if name, password, ok := basic(given[0]); ok {
			if who, ok := s.logIn(v, name, password); ok {
				return who, true
			}
		}
	}
	w.Header().Set("Proxy-Authenticate", `Basic realm="penstock", charset="UTF-8"`)
	say(w, http.StatusProxyAuthRequired, errors.New("log in with the name and the proxy_password of a peer"))
	return Login{}, false
}

// basic reads credentials (RFC 7617).
func basic(value string) (name, password string, ok bool) {
	scheme, encoded, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(decoded), ":")
}

// say answers with a sentence, and closes the connection: whoever got an error may not know where its request ends.
func say(w http.ResponseWriter, status int, why error) {
	w.Header().Set("Content-Type", textType)
	w.Header().Set("Connection", "close")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, sentence(why)) // to a client that may be gone
}

const textType = "text/plain; charset=utf-8"

func sentence(why error) string { return "penstock: " + why.Error() + "\n" }

// statusFor returns the status for an outcome.
func statusFor(out outcome) int {
	switch {
	case out.result == notAllowed:
		return http.StatusForbidden
	case out.result == noAnswer, errors.Is(out.err, syscall.ETIMEDOUT):
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

// connect serves CONNECT: the connection becomes the client's side of a flow.
func (s *Server) connect(ctx context.Context, v *visitor, w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 { // RFC 9110, 9.3.6: it has no content
		say(w, http.StatusBadRequest, errors.New("CONNECT has no body"))
		return
	}
	t, err := authority(r.RequestURI, 0)
	if err != nil {
		say(w, http.StatusBadRequest, err)
		return
	}
	sent, err := takeOver(w)
	defer v.Close()
	if err != nil {
		return
	}
	out := s.open(ctx, v.login(), v.src, t, policy.TCP, func(netip.AddrPort) (net.Conn, error) {
		if _, err := io.WriteString(v, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
			return nil, err
		}
		return s.carry(v, v.login(), sent), nil
	})
	if out.result == carriedThrough {
		return
	}
	v.SetDeadline(time.Now().Add(handshakeTime))
	status, text := statusFor(out), sentence(out.err)
	if _, err := fmt.Fprintf(v, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), textType, len(text), text); err == nil {
		linger(v)
	}
}

// takeOver takes the connection from the HTTP server, with what the client has sent already. It comes before the dial: the server
// takes the end of what a client sends for the end of the client.
func takeOver(w http.ResponseWriter) (sent []byte, err error) {
	c, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Time{})
	sent = make([]byte, buffered.Reader.Buffered())
	_, err = io.ReadFull(buffered, sent)
	return sent, err
}

// authority reads host:port. If port is not 0, the host may stand alone.
func authority(text string, port uint16) (target, error) {
	u := url.URL{Host: text}
	host := u.Hostname()
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return target{}, errors.New("the port is not a number from 1 to 65535")
		}
		port = uint16(n)
	}
	if host == "" {
		return target{}, errors.New("there is no host")
	}
	return newTarget(host, port)
}

// forward serves a request for an http:// URL: it goes to its host in a flow of the client's, which later requests to the same
// host use too. Each request is judged by its host, even if there is a flow already.
func (s *Server) forward(ctx context.Context, v *visitor, w http.ResponseWriter, r *http.Request) {
	t, err := authority(r.URL.Host, 80)
	if err != nil {
		say(w, http.StatusBadRequest, err)
		return
	}
	if t.host != "" {
		if _, out := s.resolve(r.Context(), v.login(), v.src, t, policy.TCP, netip.IPv4Unspecified()); (out.result == notAllowed || out.result == noAnswer) && !withheld(out.err) {
			say(w, statusFor(out), out.err)
			return
		}
	}
	proxy := httputil.ReverseProxy{
		Rewrite:       rewrite,
		Transport:     s.transport(ctx, v),
		FlushInterval: -1, // a server that sends a little now and then is not delayed
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler:  refuse,
		BufferPool:    buffers{},
	}
	proxy.ServeHTTP(w, r)
}

// rewrite makes the request for the server. The reverse proxy has removed what is meant for this connection alone, and things of
// which a forward proxy must not rob its client: those come back.
func rewrite(p *httputil.ProxyRequest) {
	p.Out.Host = p.In.Host
	p.Out.URL.User = nil
	p.Out.URL.RawQuery = p.In.URL.RawQuery
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, given := p.In.Header[name]; given {
			p.Out.Header[name] = values
		}
	}
	p.Out.Header.Del("Proxy-Authorization")
	p.Out.Header.Add("Via", strconv.Itoa(p.In.ProtoMajor)+"."+strconv.Itoa(p.In.ProtoMinor)+" penstock") // RFC 9110, 7.6.3
}

// refuse answers a request that could not be forwarded.
func refuse(w http.ResponseWriter, _ *http.Request, err error) {
	if failed, ok := errors.AsType[*dialError](err); ok {
		say(w, statusFor(failed.outcome), failed.err)
		return
	}
	say(w, http.StatusBadGateway, errors.New("the server, or the policy, ended the connection before there was a whole answer"))
}

// transport returns what makes the requests of one visitor. It is the visitor's own, so no other client uses its connections.
func (s *Server) transport(ctx context.Context, v *visitor) *http.Transport {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ways == nil {
		v.ways = &http.Transport{
			DialContext: func(request context.Context, _, address string) (net.Conn, error) {
				return s.dial(ctx, request, v, address)
			},
			DisableCompression:     true,
			MaxIdleConns:           4,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        30 * time.Second,
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: 4 * maxHead,
		}
		if v.gone {
			v.ways.DisableKeepAlives = true
		}
	}
	return v.ways
}

// dialError is why a flow was not accepted.
type dialError struct{ outcome }

func (e *dialError) Error() string { return e.err.Error() }

// dial opens a flow for the requests of a visitor. It ends with its connection and with ctx; request is that of the dial alone.
func (s *Server) dial(ctx, request context.Context, v *visitor, address string) (net.Conn, error) {
	t, err := authority(address, 80)
	if err != nil {
		return nil, err
	}
	if !v.addFlow() {
		return nil, &dialError{outcome{unreachable, errors.New("too many connections of this client are still closing")}}
	}
	ctx, cancel := context.WithCancel(ctx)
	inner, outer := newPipe(v.RemoteAddr(), v.LocalAddr())
	accepted, over := make(chan struct{}), make(chan outcome, 1)
	begun := s.tasks.spawn(func() {
		defer v.endFlow()
		defer cancel()
		out := s.open(ctx, v.login(), v.src, t, policy.TCP, func(netip.AddrPort) (net.Conn, error) {
			close(accepted)
			return s.carry(outer, v.login(), nil), nil
		})
		outer.Close()
		over <- out
	})
	near := &ending{pipeEnd: inner, end: cancel}
	if !begun {
		v.endFlow()
		cancel()
		return nil, net.ErrClosed
	}
	select {
	case <-accepted:
		return near, nil
	case out := <-over:
		if out.result == carriedThrough { // it was accepted, and is over already
			return near, nil
		}
		return nil, &dialError{out}
	case <-request.Done():
		cancel()
		inner.Close()
		return nil, request.Err()
	}
}

// ending is a connection whose flow ends soon after Close, even if the server leaves its side open.
type ending struct {
	*pipeEnd
	end func()
}

// endingTime is how long a server may take to close its side.
const endingTime = time.Second

func (e *ending) Close() error {
	time.AfterFunc(endingTime, e.end)
	return e.pipeEnd.Close()
}

// buffers lends the buffers with which bodies are copied.
type buffers struct{}

func (buffers) Get() []byte  { return *largeBuffers.Get().(*[]byte) }
func (buffers) Put(b []byte) { largeBuffers.Put(&b) }

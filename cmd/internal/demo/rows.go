package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
)

// Names and addresses of the world, as in the lab of the end-to-end tests.
const (
	publicSite   = "public.example"
	gamblingSite = "casino.example"
	adultSite    = "adult.example"
	intranetSite = "intranet.corp.example"
	deadAddr     = "203.0.113.254"
	gamblingAddr = "203.0.113.20"
	adultAddr    = "203.0.113.21"
	resolverAddr = "203.0.113.53"
	echoPort     = 7
	closedPort   = 4
)

// trust holds the certificates that the laptop's programs trust.
type trust struct{ roots *x509.CertPool }

// row is one request and its expected result.
type row struct {
	what     string
	try      func(ctx context.Context, w programs) (string, error)
	want     string
	rule     string // that decides
	went     string
	port     string // suffix of the flow's destination, to find it
	question string // set if the row ends with its DNS question
}

func rows() []row {
	return []row{
		{
			what: "https://" + gamblingSite + ", a gambling site", try: get("https", gamblingSite, ""),
			want: "no such name", rule: "no-gambling", went: "nowhere", question: gamblingSite,
		},
		{
			what: "the same by its address, with the name in TLS only", try: get("https", gamblingSite, gamblingAddr),
			want: "refused", rule: "no-gambling", went: "nowhere", port: ":443",
		},
		{
			what: "an adult site by its address, over plain HTTP", try: get("http", adultSite, adultAddr),
			want: "a page that says why not", rule: "no-adult", went: "nowhere", port: ":80",
		},
		{
			what: "the gambling site's address from a foreign resolver", try: foreignResolver(gamblingSite),
			want: "no such name", rule: "no-gambling", went: "nowhere", question: gamblingSite,
		},
		{
			what: "https://" + intranetSite + ", the company's intranet", try: get("https", intranetSite, ""),
			want: "this is " + intranetSite, rule: "intranet", went: "via corp", port: ":443",
		},
		{
			what: "a ping of 4,000 bytes to the intranet", try: ping(intranetSite, 4000),
			want: "answered", rule: "intranet", went: "via corp", port: ":0",
		},
		{
			what: "a UDP datagram of 4,000 bytes to the intranet and back", try: udpEcho(intranetSite, 4000),
			want: "4000 bytes back", rule: "intranet", went: "via corp", port: fmt.Sprintf(":%d", echoPort),
		},
		{
			what: "https://" + publicSite + ", a public site", try: get("https", publicSite, ""),
			want: "this is " + publicSite, rule: "rest", went: "via corp", port: ":443",
		},
		{
			what: "the same over IPv6", try: overIPv6(publicSite),
			want: "this is " + publicSite, rule: "rest", went: "via corp", port: ":80",
		},
		{
			what: "a port of it that nobody listens on", try: connect(publicSite, closedPort, 5*time.Second),
			want: "refused", rule: "rest", went: "via corp", port: fmt.Sprintf(":%d", closedPort),
		},
		{
			what: "a host that is dead", try: connect(deadAddr, 22, 700*time.Millisecond),
			want: "no answer", rule: "rest", went: "via corp", port: ":22",
		},
	}
}

// client returns an HTTP client on the laptop. If at is set, it dials at for every name.
func client(w programs, at string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: w.trust().roots},
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			if at != "" {
				host = at
			} else if host, err = first(ctx, w, host); err != nil {
				return nil, err
			}
			return w.dial(ctx, network, net.JoinHostPort(host, port))
		},
	}}
}

// first returns the first address of a name. An address is returned unchanged.
func first(ctx context.Context, w programs, host string) (string, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.String(), nil
	}
	addrs, err := w.lookup(ctx, host)
	if err != nil {
		return "", err
	}
	return addrs[0].String(), nil
}

func get(scheme, name, at string) func(context.Context, programs) (string, error) {
	return func(ctx context.Context, w programs) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+name+"/", nil)
		if err != nil {
			return "", err
		}
		res, err := client(w, at).Do(req)
		if err != nil {
			return outcome(err)
		}
		defer res.Body.Close()
		if res.StatusCode == http.StatusForbidden {
			return "a page that says why not", nil
		}
		body, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return strings.TrimSpace(string(body)), err
	}
}

func overIPv6(name string) func(context.Context, programs) (string, error) {
	return func(ctx context.Context, w programs) (string, error) {
		addrs, err := w.lookup(ctx, name)
		if err != nil {
			return "", err
		}
		for _, a := range addrs {
			if a.Is6() {
				return get("http", name, a.String())(ctx, w)
			}
		}
		return "no IPv6 address", nil
	}
}

// outcome describes the error that a refused client sees.
func outcome(err error) (string, error) {
	var unknown *net.DNSError
	switch {
	case errors.As(err, &unknown) && unknown.IsNotFound:
		return "no such name", nil
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
		return "refused", nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer", nil
	}
	return "", err
}

func connect(host string, port int, limit time.Duration) func(context.Context, programs) (string, error) {
	return func(ctx context.Context, w programs) (string, error) {
		addr, err := first(ctx, w, host)
		if err != nil {
			return outcome(err)
		}
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		c, err := w.dial(ctx, "tcp", net.JoinHostPort(addr, fmt.Sprint(port)))
		if err != nil {
			return outcome(err)
		}
		c.Close()
		return "connected", nil
	}
}

func udpEcho(host string, size int) func(context.Context, programs) (string, error) {
	return func(ctx context.Context, w programs) (string, error) {
		addr, err := first(ctx, w, host)
		if err != nil {
			return outcome(err)
		}
		c, err := w.dial(ctx, "udp", net.JoinHostPort(addr, fmt.Sprint(echoPort)))
		if err != nil {
			return outcome(err)
		}
		defer c.Close()
		sent, got := bytes.Repeat([]byte{'p'}, size), make([]byte, size+1)
		if _, err := c.Write(sent); err != nil {
			return outcome(err)
		}
		c.SetReadDeadline(time.Now().Add(3 * time.Second))
		n, err := c.Read(got)
		if err != nil {
			return outcome(err)
		}
		if !bytes.Equal(got[:n], sent) {
			return "something else back", nil
		}
		return fmt.Sprintf("%d bytes back", n), nil
	}
}

func ping(host string, size int) func(context.Context, programs) (string, error) {
	return func(ctx context.Context, w programs) (string, error) {
		text, err := first(ctx, w, host)
		if err != nil {
			return outcome(err)
		}
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if err := w.ping(ctx, netip.MustParseAddr(text), size); err != nil {
			return outcome(err)
		}
		return "answered", nil
	}
}

// foreignResolver returns a request to a resolver on the internet instead of the laptop's own.
func foreignResolver(name string) func(context.Context, programs) (string, error) {
	return func(ctx context.Context, w programs) (string, error) {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return w.dial(ctx, network, net.JoinHostPort(resolverAddr, "53"))
		}}
		addrs, err := r.LookupNetIP(ctx, "ip4", name)
		if err != nil {
			return outcome(err)
		}
		return fmt.Sprint(addrs), nil
	}
}

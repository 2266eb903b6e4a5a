package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/wire"
)

const mediaType = "application/dns-message" // RFC 8484 6

// httpsProtocol asks over HTTPS (DoH): HTTP/2 where the server has it, else HTTP/1.1.
type httpsProtocol struct {
	url     string
	make    func() *http.Client
	client  atomic.Pointer[http.Client]
	retired atomic.Bool
}

func newHTTPSProtocol(r *reach, config *tls.Config) *httpsProtocol {
	h := &httpsProtocol{url: r.url(), make: func() *http.Client { return newHTTPSClient(r, config) }}
	h.client.Store(h.make())
	return h
}

func newHTTPSClient(r *reach, config *tls.Config) *http.Client {
	transport := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return r.dial(ctx, "tcp") },
		TLSClientConfig:        config.Clone(),
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		IdleConnTimeout:        3 * streamIdle,
		MaxResponseHeaderBytes: 16 << 10,
		MaxConnsPerHost:        8,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 2 * time.Second},
	}
	return &http.Client{
		Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("a DNS server must not redirect") // it could lead anywhere, ourselves included
		},
	}
}

// tidy does nothing: the transport has a time for idle connections itself.
func (h *httpsProtocol) tidy() {}

// reset leaves the old client to the queries that it has. A connection of it closes when the last of them returns.
func (h *httpsProtocol) reset() {
	h.client.Swap(h.make()).CloseIdleConnections()
}

func (h *httpsProtocol) retire() {
	h.retired.Store(true)
	h.client.Load().CloseIdleConnections()
}

func (h *httpsProtocol) exchange(ctx context.Context, query []byte) ([]byte, error) {
	client := h.client.Load()
	defer func() {
		if h.retired.Load() || h.client.Load() != client {
			client.CloseIdleConnections()
		}
	}()
	sent := wire.Padded(query)
	sent[0], sent[1] = 0, 0 // RFC 8484 4.1: the stream tells answers apart
	req, err := newDoHRequest(ctx, h.url, sent)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, cause(ctx, err)
	}
	answer, err := readDoH(resp, h.url)
	if err != nil {
		return nil, cause(ctx, err)
	}
	if !wire.Matches(sent, answer) {
		return nil, fmt.Errorf("%s: the answer is not to the question", h.url)
	}
	copy(answer, query[:2])
	return answer, nil
}

// newDoHRequest is the request that asks query (RFC 8484 4.1).
func newDoHRequest(ctx context.Context, url string, query []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(query))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("Accept", mediaType)
	req.Header.Set("User-Agent", "") // nothing that tells clients apart
	return req, nil
}

// readDoH reads the message in a response and closes it.
func readDoH(resp *http.Response, url string) ([]byte, error) {
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	if got, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); got != mediaType {
		return nil, fmt.Errorf("%s: content type %q, want %q", url, got, mediaType)
	}
	return io.ReadAll(io.LimitReader(resp.Body, dns.MaxMsgSize))
}

// url is where a DoH server answers.
func (r *reach) url() string {
	return "https://" + net.JoinHostPort(r.host, strconv.Itoa(int(r.port))) + r.path
}

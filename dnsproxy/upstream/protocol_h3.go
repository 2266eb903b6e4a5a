package upstream

import (
	"context"
	"crypto/tls"

	"github.com/quic-go/quic-go/http3"
)

// newH3Protocol asks over HTTP/3 (DoH).
func newH3Protocol(r *reach, config *tls.Config) *quicProtocol {
	config.NextProtos = []string{http3.NextProtoH3}
	url := r.url()
	transport := &http3.Transport{DisableCompression: true, MaxResponseHeaderBytes: 16 << 10}
	return &quicProtocol{
		reach: r, tls: config, code: http3NoError, dialing: make(chan struct{}, 1),
		opened: func(c *quicConn) { c.http = transport.NewClientConn(c.Conn) },
		ask: func(ctx context.Context, c *quicConn, query []byte) ([]byte, error) {
			req, err := newDoHRequest(ctx, url, query)
			if err != nil {
				return nil, err
			}
			resp, err := c.http.RoundTrip(req)
			if err != nil {
				return nil, c.broke(ctx, err)
			}
			return readDoH(resp, url)
		},
	}
}

package dnsproxy

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/wire"
	"penstock/policy"
)

// mediaType is that of queries and answers (RFC 8484 6).
const mediaType = "application/dns-message"

// AnswerHTTP answers a request of DNS over HTTPS (RFC 8484), whatever its path, of the client in f: Src, and Client, Peer and Groups
// as from [Clients]. A client without a Peer is a stranger: see [Who]. A question that a rule drops ends the request without a
// response. It waits for the answer; the bounds of connections, and of the time to send a request, are those of the HTTP server.
func (p *Private) AnswerHTTP(w http.ResponseWriter, req *http.Request, f policy.Flow) {
	if !p.welcomes(f) {
		http.NotFound(w, req)
		return
	}
	if !p.tasks.begin() {
		http.Error(w, "the server is stopping", http.StatusServiceUnavailable)
		return
	}
	defer p.tasks.end()
	if f.Client == 0 {
		f.Client = AddressKey(f.Src.Addr())
	}
	done, ok := p.conns.connect(f.Client, &Settings{MaxConns: privateStreams})
	if !ok {
		p.cfg.Metrics.PrivateRefused(RefusedConnections)
		http.Error(w, "too many requests at once", http.StatusTooManyRequests)
		return
	}
	defer done()
	query, bad := queryOf(w, req)
	if bad != 0 {
		p.cfg.Metrics.PrivateRefused(RefusedRequest)
		http.Error(w, http.StatusText(bad), bad)
		return
	}
	ctx, cancel := p.tasks.context(req.Context(), f.Client)
	defer cancel()
	answers := make(httpAnswerer, 1)
	ex := p.start(f.Src, &f, answers)
	ex.overTLS(p.cfg.Metrics, protocolHTTPS)
	p.serve(ctx, ex, query)
	var msg []byte
	select {
	case msg = <-answers:
	case <-ctx.Done():
	}
	if len(msg) == 0 {
		panic(http.ErrAbortHandler) // silence
	}
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.Itoa(len(msg)))
	h.Set("Cache-Control", "private, max-age="+strconv.Itoa(int(wire.Lifetime(msg)/time.Second)))
	_, _ = w.Write(msg) // a client that is gone needs no answer
}

// httpAnswerer takes the answer of one exchange.
type httpAnswerer chan []byte

func (a httpAnswerer) answer(ex *exchange) error {
	if ex.private && ex.q.Padding {
		ex.out = wire.PadAnswer(ex.out)
	}
	a <- bytes.Clone(ex.out)
	return nil
}

// queryOf returns the query in a request, or the status that says what is wrong with it.
func queryOf(w http.ResponseWriter, req *http.Request) (query []byte, bad int) {
	switch req.Method {
	case http.MethodGet:
		values := req.URL.Query()["dns"]
		if len(values) != 1 || base64.RawURLEncoding.DecodedLen(len(values[0])) > dns.MaxMsgSize {
			return nil, http.StatusBadRequest
		}
		var err error
		if query, err = base64.RawURLEncoding.Strict().DecodeString(values[0]); err != nil { // RFC 8484 4.1: without padding
			return nil, http.StatusBadRequest
		}
	case http.MethodPost:
		if kind, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || kind != mediaType {
			return nil, http.StatusUnsupportedMediaType
		}
		var err error
		if query, err = io.ReadAll(http.MaxBytesReader(w, req.Body, dns.MaxMsgSize)); err != nil {
			if _, large := errors.AsType[*http.MaxBytesError](err); large {
				return nil, http.StatusRequestEntityTooLarge
			}
			return nil, http.StatusBadRequest
		}
	default:
		w.Header().Set("Allow", "GET, POST")
		return nil, http.StatusMethodNotAllowed
	}
	if !wire.IsQuery(query) {
		return nil, http.StatusBadRequest
	}
	return query, 0
}

package netlab

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// dripInterval is the time between two bytes of /drip.
const dripInterval = 100 * time.Millisecond

// maxBytes is the maximum size for /bytes and /drip.
const maxBytes = 1 << 34

// Sink counts the bytes received by a host's sink port and its sites' /sink page.
type Sink struct {
	bytes atomic.Int64
}

// Bytes returns the count so far.
func (s *Sink) Bytes() int64 { return s.bytes.Load() }

// Write counts and never fails.
func (s *Sink) Write(b []byte) (int, error) {
	s.bytes.Add(int64(len(b)))
	return len(b), nil
}

// site serves every name. Its answers contain the name that the client asked for.
//
//	/              "this is HOST\n"
//	/client        the client's address and port as the site sees them
//	/bytes/N       N bytes, byte i being i mod 251
//	/drip/N        N bytes, ten a second
//	/sink          counts the request's body into sink
//	/generate_204  204, as captive portal probes expect
func site(sink *Sink) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "this is %s\n", r.Host)
	})
	mux.HandleFunc("/client", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, r.RemoteAddr)
	})
	mux.HandleFunc("/bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, ok := count(w, r)
		if !ok {
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		_, _ = io.CopyN(w, new(pattern), n) // the client may be gone
	})
	mux.HandleFunc("/drip/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, ok := count(w, r)
		if !ok {
			return
		}
		tick := time.NewTicker(dripInterval)
		defer tick.Stop()
		for range n {
			if _, err := io.WriteString(w, "."); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush() // an error shows in the next write
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/sink", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(sink, r.Body)
		if err != nil {
			return
		}
		fmt.Fprintln(w, n)
	})
	mux.HandleFunc("/generate_204", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

// count reads the number at the end of a path. If there is none, it answers the client with an error.
func count(w http.ResponseWriter, r *http.Request) (int64, bool) {
	n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
	if err != nil || n < 0 || n > maxBytes {
		http.Error(w, "want a number of bytes", http.StatusBadRequest)
		return 0, false
	}
	return n, true
}

// pattern is an endless stream in which byte i is i mod 251, so that a checksum detects lost and shifted blocks.
type pattern struct{ next byte }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = p.next
		if p.next++; p.next == 251 {
			p.next = 0
		}
	}
	return len(b), nil
}

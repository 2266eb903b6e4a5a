package dnsproxy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"penstock/dnsproxy/cache"
	"penstock/dnsproxy/names"
	"penstock/dnsproxy/wire"
)

// tidyEvery is how often what has expired is removed and idle connections are closed.
const tidyEvery = 10 * time.Second

// Server answers DNS queries. Its methods may be called by any number of goroutines.
//
//	Server (ways in, plans) -> resolver (questions to answers) -> asker (flights, upstreams)
type Server struct {
	*resolver
	using sync.Mutex // held while a new state replaces the old one
}

// New returns a server that answers by p. It does no I/O and starts nothing.
func New(cfg Config, p *Plan) (*Server, error) {
	if p == nil {
		return nil, errors.New("dnsproxy: new server: no plan")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ask := &asker{
		cache: cache.New(cfg.CacheBytes, cfg.CacheEntries), limits: newLimits(), flights: flights{open: map[cache.Key]*flight{}},
		log: cfg.Log, metrics: cfg.Metrics, clock: time.Now,
	}
	s := &Server{resolver: &resolver{
		asker: ask, cfg: cfg, names: names.New(cfg.MaxNames, time.Now),
		pool: sync.Pool{New: func() any { return &exchange{out: make([]byte, 0, wire.MaxUDP)} }},
	}}
	s.Use(p)
	return s, nil
}

// Use makes p the plan for all queries that begin after it returns. The cache and the names stay. An upstream that is in both plans
// with the same Name, Address, Via and Bootstrap keeps its connections and its health; see Reconnect. The connections of other
// upstreams close when the queries on them are answered.
func (s *Server) Use(p *Plan) {
	s.using.Lock()
	defer s.using.Unlock()
	old := s.state.Load()
	st := s.bind(p, old)
	s.state.Store(st)
	if old == nil {
		return
	}
	for key, u := range old.upstreams {
		if st.upstreams[key] == nil {
			u.Retire()
		}
	}
}

// Reconnect makes later queries open new connections to upstreams, and forgets which upstreams were down. Call it when the network
// changes: the old connections may lead nowhere. Queries in flight keep theirs.
func (s *Server) Reconnect() {
	for _, u := range s.state.Load().upstreams {
		u.Reconnect()
	}
}

// CloseClient ends everything that a client has here: its streams and flows, its questions in flight, and its names. It does not
// keep the client from asking again.
func (s *Server) CloseClient(client uint64) {
	s.tasks.closeClient(client)
	s.names.Forget(client)
}

// Run does the background work until ctx is done. Then it cancels all queries in flight, waits for everything that the server
// started, and returns nil. After that no query gets an answer.
func (s *Server) Run(ctx context.Context) error {
	ticker := time.NewTicker(tidyEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.tidy()
		case <-ctx.Done():
			s.close()
			return nil
		}
	}
}

func (s *Server) tidy() {
	s.cache.Expire(s.clock())
	s.names.Expire()
	for _, u := range s.state.Load().upstreams {
		u.Tidy()
	}
	entries, bytes := s.cache.Sizes()
	s.cfg.Metrics.sizes(entries, bytes, s.names.Len())
}

// close stops the server. The order matters: first no task may start, then all contexts end, then connections close, and then
// close waits for the tasks.
func (s *Server) close() {
	s.tasks.close()
	s.using.Lock()
	for _, u := range s.state.Load().upstreams {
		u.Retire()
	}
	s.using.Unlock()
	s.tasks.wait()
}

// Names returns the table of the names that clients asked for.
func (s *Server) Names() *names.Table { return s.names }

// Flush empties the cache. Names are kept.
func (s *Server) Flush() { s.cache.Flush() }

// errClosed says that Run has ended.
var errClosed = errors.New("dnsproxy: the server is closed")

// ServePacket answers one query datagram of client. A blocked or cached answer goes out through reply before ServePacket returns;
// otherwise a worker calls reply later, at most once, unless ctx is done by then. The answer is valid during the call only. Some
// queries get no answer: malformed ones that are no query, those that a rule drops, and all after Run has ended. ServePacket does
// not keep query.
func (s *Server) ServePacket(ctx context.Context, client netip.AddrPort, query []byte, reply func([]byte) error) {
	ex := s.start(client, nil, replyFunc(reply))
	s.serve(ctx, ex, query)
}

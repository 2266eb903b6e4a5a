package dnsproxy

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// tidyEvery is how often what has expired is removed and idle connections are closed.
const tidyEvery = 10 * time.Second

// Server answers DNS queries. Its methods may be called by any number of goroutines.
type Server struct {
	state   atomic.Pointer[state]
	seed    maphash.Seed
	cache   *cache
	names   *Names
	limits  *limits
	flights flights
	tasks   tasks
	pool    sync.Pool // of *exchange

	log      *slog.Logger
	queryLog *slog.Logger // nil means none
	metrics  *Metrics
	clock    func() time.Time
}

// New returns a server for cfg. It does no I/O and starts nothing. The error joins a sentence for each thing wrong with cfg.
func New(cfg Config) (*Server, error) {
	s := &Server{
		seed: maphash.MakeSeed(), log: cfg.Log, queryLog: cfg.QueryLog, metrics: cfg.Metrics, clock: cfg.Clock,
		cache: newCache(cfg.CacheBytes, cfg.CacheEntries), names: newNames(cfg.MaxNames, cfg.Clock), limits: newLimits(),
		flights: flights{open: map[cacheKey]*flight{}},
		pool:    sync.Pool{New: func() any { return &exchange{out: make([]byte, 0, maxUDP)} }},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	if err := s.SetConfig(cfg); err != nil {
		return nil, err
	}
	return s, nil
}

// SetConfig puts cfg in force for all queries that begin after it returns; on an error all stays as it was. The cache and the
// names are kept, and so are the sizes and sinks that New was given: CacheBytes, CacheEntries, MaxNames, Log, QueryLog, Metrics
// and Clock of cfg mean nothing here.
func (s *Server) SetConfig(cfg Config) error {
	cfg.Metrics, cfg.Log = s.metrics, s.log
	st, err := s.compile(cfg)
	if err != nil {
		return err
	}
	if old := s.state.Swap(st); old != nil {
		old.each(protocol.retire)
	}
	return nil
}

// Run does the background work until ctx is done. Then it cancels all queries in flight, waits for everything that the server
// has started, and returns nil. After that every query meets silence.
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
	s.cache.expire(s.clock())
	s.names.expire()
	s.state.Load().each(protocol.tidy)
	entries, bytes := s.cache.sizes()
	s.metrics.sizes(entries, bytes, s.names.len())
}

// close ends the server. Nobody new comes in, then those inside are told, then their connections go, and then they are waited for.
func (s *Server) close() {
	s.tasks.close()
	s.flights.end()
	s.state.Load().each(protocol.retire)
	s.tasks.wait()
}

// each calls f for every upstream.
func (st *state) each(f func(protocol)) {
	for _, g := range st.groups {
		for _, u := range g.upstreams {
			f(u.protocol)
		}
	}
}

// Names returns the table of the names that clients asked for.
func (s *Server) Names() *Names { return s.names }

// Flush empties the cache. Names are kept.
func (s *Server) Flush() { s.cache.flush() }

// errClosed says that the server is over.
var errClosed = errors.New("dnsproxy: the server is closed")

// ServePacket answers one query datagram of client. A blocked or cached answer goes out through reply before ServePacket returns;
// otherwise a worker calls reply later, at most once, unless ctx is done by then. The answer is valid during the call only. Some
// queries get no answer: those that are none, those that a rule drops, and all after Run has ended. Query is not retained.
func (s *Server) ServePacket(ctx context.Context, client netip.AddrPort, query []byte, reply func([]byte) error) {
	ex := s.start(client, replyFunc(reply))
	ex.flow = s.state.Load().cfg.Describe(ex.client)
	s.serve(ctx, ex, query)
}

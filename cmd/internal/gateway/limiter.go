package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/gateway/meter"
	"penstock/cmd/internal/gateway/quota"
	"penstock/router/transport/wireguard"
)

// How often quotas are looked at, and how often what is used is written down. A crash loses what was used since then.
const (
	settleEvery = time.Second
	saveEvery   = 10 * time.Second
)

// limiter gives the meter the limits of a plan, and keeps the quotas.
type limiter struct {
	meter *meter.Meter
	file  string
	over  func(peers map[string]bool) // see Config.OverQuota; may be nil
	log   *slog.Logger
	now   func() time.Time
	write func(path string, text []byte) error // of the file

	saving sync.Mutex // is held while the file is written

	accounts atomic.Pointer[map[string]*meter.Account] // of peers, by config.Peer.ID

	mu      sync.Mutex          // guards below
	book    *quota.Book         // nil until a peer has a quota
	peers   map[string]*limited // by config.Peer.ID
	told    map[string]bool     // what over was told last
	lost    string              // why counts have begun anew, until the month ends
	until   time.Time
	unsaved string // why the file cannot be written; "": it can
}

// limited is a peer with limits.
type limited struct {
	name    string
	limits  config.PeerLimits
	account *meter.Account
	counted uint64 // of account.Used, what is in the book
	used    uint64 // in this month
	over    bool   // its quota is used up
}

// Usage is what a peer with limits uses.
type Usage struct {
	Limits  config.PeerLimits
	Dropped uint64    // bytes above its rates since it was first limited
	Used    uint64    // bytes in this month; 0 without a quota
	Over    bool      // the quota is used up
	Ends    time.Time // of the month; zero without a quota
}

func newLimiter(m *meter.Meter, c Config) *limiter {
	l := &limiter{meter: m, file: c.Plan.listen.QuotaFile, over: c.OverQuota, log: c.Log, now: time.Now, write: quota.Write}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	return l
}

// use puts the limits of the peers of p in force that are among peers.
func (l *limiter) use(p *Plan, peers wireguard.Peers) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settleLocked()
	next := make(map[string]*limited)
	var counted []meter.Peer
	cfg := p.all.cfg
	at := make(map[wireguard.PublicKey]*limited) // that have a key
	for n, i := range p.all.of {
		entry := cfg.Peers.At(int(i))
		if limits := config.LimitsOf(cfg, entry); !limits.IsZero() {
			at[p.all.At(n).PublicKey] = &limited{name: entry.Name, limits: limits}
		}
	}
	for i := range peers.Len() {
		if len(at) == 0 {
			break
		}
		peer := peers.At(i)
		if one := at[peer.PublicKey]; one != nil {
			id := peer.PublicKey.String()
			next[id] = one
			counted = append(counted, meter.Peer{ID: id, Addrs: peer.AllowedIPs})
		}
	}
	for _, i := range p.guests {
		entry := cfg.Peers.At(int(i))
		if limits := config.LimitsOf(cfg, entry); entry.State(l.now()) == "" && !limits.IsZero() {
			next[entry.ID()] = &limited{name: entry.Name, limits: limits}
			counted = append(counted, meter.Peer{ID: entry.ID()})
		}
	}
	accounts := l.meter.Use(counted)
	l.accounts.Store(&accounts)
	for id, peer := range next {
		peer.account = accounts[id]
		if before := l.peers[id]; before != nil && before.account == peer.account {
			peer.counted, peer.over = before.counted, before.over
		}
		if peer.limits.Quota == nil {
			peer.counted, peer.over = peer.account.Used(), false // a quota that it gets later is for what follows
		} else if l.book == nil {
			l.openLocked()
		}
	}
	l.peers = next
	l.settleLocked()
}

func (l *limiter) openLocked() {
	var err error
	if l.book, err = quota.Open(l.file); err != nil {
		l.lost, l.until = "what peers have used of their quotas is lost: "+err.Error(), l.book.Ends(l.now())
		l.log.Error("what peers have used of their quotas is lost, and counts from 0", "err", err)
	}
}

// settle books what was used since the last time, and applies the quotas.
func (l *limiter) settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settleLocked()
}

func (l *limiter) settleLocked() {
	now, blocked := l.now(), make(map[string]bool)
	for id, p := range l.peers {
		rate := p.limits.Rate
		if q := p.limits.Quota; q != nil {
			total := p.account.Used()
			l.book.Add(id, total-p.counted, now)
			p.counted, p.used = total, l.book.Used(id, now)
			before := p.over
			p.over = p.used >= uint64(q.Monthly)
			switch {
			case !p.over:
				p.account.SetMark(total + uint64(q.Monthly) - p.used)
			case q.Over == 0:
				blocked[p.name] = true
			default:
				rate.Up, rate.Down = slower(rate.Up, q.Over), slower(rate.Down, q.Over)
			}
			if p.over && !before {
				l.log.Warn("a peer has used up its quota", "peer", p.name, "used", p.used, "quota", q.Monthly, "over", q.Over)
			} else if before && !p.over {
				l.log.Info("a peer is within its quota again", "peer", p.name)
			}
		}
		p.account.SetRates(int64(rate.Up), int64(rate.Down))
	}
	if !now.Before(l.until) {
		l.lost = ""
	}
	if !maps.Equal(blocked, l.told) && l.over != nil {
		l.over(blocked)
	}
	l.told = blocked
}

// slower returns the lower of two rates. No rate is no limit.
func slower(rate config.Rate, over config.Over) config.Rate {
	if rate == 0 {
		return config.Rate(over)
	}
	return min(rate, config.Rate(over))
}

// save writes down what was used. Meanwhile the quotas are kept: a disk may hang.
func (l *limiter) save() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	text, err := l.unsavedText()
	if err == nil && text != nil {
		err = l.write(l.file, text)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.book.NotSaved()
	}
	switch {
	case err == nil:
		l.unsaved = ""
	case l.unsaved == "":
		l.log.Error("a restart will forget what peers have used of their quotas", "err", err)
		fallthrough
	default:
		l.unsaved = err.Error()
	}
	return err
}

// unsavedText returns what is to be written; nil if it is written already.
func (l *limiter) unsavedText() ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.book == nil {
		return nil, nil
	}
	return l.book.Unsaved()
}

// run settles and saves until ctx ends.
func (l *limiter) run(ctx context.Context) {
	settle, save := time.NewTicker(settleEvery), time.NewTicker(saveEvery)
	defer settle.Stop()
	defer save.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-settle.C:
			l.settle()
		case <-l.meter.Crossed():
			l.settle()
		case <-save.C:
			_ = l.save() // it has told
		}
	}
}

// reset forgets what a peer has used in this month.
func (l *limiter) reset(name string) error {
	l.mu.Lock()
	for id, p := range l.peers {
		if p.name != name {
			continue
		}
		if p.limits.Quota == nil {
			break
		}
		l.settleLocked()
		l.book.Reset(id, l.now())
		l.settleLocked()
		l.mu.Unlock()
		if err := l.save(); err != nil {
			return fmt.Errorf("peer %s may go on, but a restart will forget that: %w", name, err)
		}
		return nil
	}
	l.mu.Unlock()
	return fmt.Errorf("there is no peer %q with a quota that may connect: \"penstock peer list\" shows who has one", name)
}

// spend counts what a peer has sent or got outside the tunnel, and returns how long it must wait.
func (l *limiter) spend(id string, d Direction, size int) time.Duration {
	if accounts := l.accounts.Load(); accounts != nil {
		if a := (*accounts)[id]; a != nil {
			return a.Spend(d, size)
		}
	}
	return 0
}

// usage returns what the peers use, by config.Peer.ID.
func (l *limiter) usage() map[string]Usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[string]Usage, len(l.peers))
	for id, p := range l.peers {
		u := Usage{Limits: p.limits, Dropped: p.account.Dropped()}
		if p.limits.Quota != nil {
			u.Used, u.Over, u.Ends = p.used+p.account.Used()-p.counted, p.over, l.book.Ends(l.now())
		}
		all[id] = u
	}
	return all
}

// trouble returns what is wrong with keeping the quotas, or "".
func (l *limiter) trouble() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unsaved != "" {
		return "a restart will forget what peers have used of their quotas: " + l.unsaved
	}
	return l.lost
}

package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"penstock/cmd/internal/acme"
	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/decisions"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/egress"
	"penstock/cmd/internal/gateway"
	"penstock/cmd/internal/health"
	"penstock/cmd/internal/laptop"
	"penstock/cmd/internal/ports"
	"penstock/cmd/internal/privatedns"
	"penstock/cmd/internal/record"
	"penstock/cmd/internal/signin"
	"penstock/policy"
	"penstock/router/hostnet/direct"
	"penstock/router/transport"
)

// Process reports the state of penstock as a whole. All fields except Gateway, SignIn, Health, Phones and ACME must be set.
type Process struct {
	Live    *edition.Live
	Egress  *egress.Egress
	Laptop  *laptop.Laptop
	Follow  *laptop.Follower
	Gateway *gateway.Gateway // nil without listen.wireguard
	SignIn  *signin.Service  // nil without listen.wireguard
	Flows   *Flows
	Health  *health.Targets     // nil: there are no targets
	Phones  *privatedns.Service // nil without dns.serve
	ACME    *acme.Certificates  // nil without acme
	// Decisions is what somebody has decided. May be nil.
	Decisions *decisions.Book
	// Fleet returns how the fleet looks from here, or nil without one. May be nil.
	Fleet func() *control.Fleet
	// Ports are those on which no traffic depends. May be nil.
	Ports   *ports.Ports
	Started time.Time
	Version string
	Records *record.Book // has the history. May be nil.

	refused [2]atomic.Pointer[string] // errors of the last reload, and of the last reload of the peers alone; nil: it succeeded
	waiting atomic.Pointer[[]string]  // see Waits
	drains  atomic.Bool
	fault   atomic.Pointer[string] // nil: penstock runs the present configuration, or an earlier version of it
}

// Overall returns the state of the process, which is the worst state of the transports in use. A gateway that needs no
// transport is connected as soon as its port is open.
func (s *Process) Overall() transport.Health {
	worst := transport.Health{State: transport.Connected, Since: s.Started}
	rank := []transport.State{
		transport.Connected, transport.Quiesced, transport.Reconnecting, transport.Connecting,
		transport.Offline, transport.Waiting, transport.Down, transport.Blocked,
	}
	for _, h := range s.inUse() {
		switch a, b := slices.Index(rank, h.State), slices.Index(rank, worst.State); {
		case worst.Name == "", a > b:
			degraded := worst.Degraded
			worst = h
			worst.Degraded = worst.Degraded || degraded
		case h.Degraded:
			worst.Degraded = true
		}
	}
	return s.Follow.Explains(worst)
}

// inUse returns the transports that rules and DNS upstreams use. For a group it returns the member that carries new flows.
func (s *Process) inUse() []transport.Health {
	cfg := s.Live.Config()
	names := make(map[string]bool)
	for _, r := range cfg.Rules {
		names[r.Do.Via] = true
	}
	for _, u := range cfg.DNS.Upstreams {
		names[u.Via] = true
	}
	for _, split := range cfg.DNS.Split {
		for _, u := range split.Upstream {
			names[u.Via] = true
		}
	}
	var list []transport.Health
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if t, ok := s.Egress.Serving(name); ok {
			list = append(list, t.Health())
		}
	}
	return list
}

// Ready returns nil if traffic can flow, and otherwise the reason why it cannot.
func (s *Process) Ready() error {
	if s.drains.Load() {
		return errors.New(draining)
	}
	return s.Fit()
}

// Fit is Ready for somebody who knows whether penstock is drained.
func (s *Process) Fit() error {
	if trouble := s.Laptop.Trouble(); trouble != "" {
		return errors.New(trouble)
	}
	if h := s.Overall(); h.State != transport.Connected {
		return errors.New(line(h))
	}
	if s.Health != nil {
		return s.Health.Err()
	}
	return nil
}

// line describes a transport's health in one line.
func line(h transport.Health) string {
	var b strings.Builder
	b.WriteString(h.State.String())
	if h.Name != "" {
		b.WriteString(" via " + h.Name)
	}
	if h.Degraded {
		b.WriteString(", degraded")
	}
	if h.State != transport.Connected && h.Reason != "" {
		fmt.Fprintf(&b, " (%s)", h.Reason)
	}
	switch {
	case h.Name == "":
	case h.Stats.LastRx.IsZero():
		b.WriteString(", nothing received yet")
	default:
		fmt.Fprintf(&b, ", received %s ago", time.Since(h.Stats.LastRx).Round(100*time.Millisecond))
	}
	if h.Err != "" && h.State != transport.Connected {
		b.WriteString(": " + h.Err)
	}
	return b.String()
}

// draining is the state while penstock is about to be stopped.
const draining = "draining: penstock is about to be stopped"

// Draining reports whether Drain was called.
func (s *Process) Draining() bool { return s.drains.Load() }

// Drain makes penstock say that it is not ready. What arrives is still served.
func (s *Process) Drain(_ context.Context, o control.DrainOrder) error {
	s.drains.Store(!o.Off)
	return nil
}

// Status returns the current state.
func (s *Process) Status(context.Context) (control.Status, error) {
	h, now := s.Overall(), s.Live.Now()
	expired, expiring := s.certificates(time.Now())
	st := control.Status{
		State: h.State.String(), Degraded: h.Degraded, Reason: string(h.Reason), Since: h.Since, Started: s.Started,
		Version: s.Version, Config: now.Config.Path, Listen: s.Listening(), PolicyGeneration: now.Number, PausedUntil: s.Decisions.PausedUntil(),
		Health: s.targets(), ReloadError: s.reloadError(), HistoryStopped: s.Records.Trouble(), Direct: s.Egress.Kernel().String(),
		Warnings: slices.Concat(s.Ports.Troubles(), s.ACME.Warnings(), expiring), OtherVPNs: otherVPNs(s.Laptop.Others.List()),
	}
	if s.hasPeers() {
		st.Peers = (&Peers{Live: s.Live, Gateway: s.Gateway, SignIn: s.SignIn}).counts()
	}
	if s.Fleet != nil {
		st.Fleet = s.Fleet()
	}
	if waiting := s.waiting.Load(); waiting != nil {
		st.Restart = *waiting
	}
	st.Flows.Active = s.Flows.Router.Active()
	st.Flows.Forwarded, st.Flows.Denied = s.Flows.counts()
	st.Verdict = s.verdict(h)
	for _, trouble := range s.troubles(now, st, expired) {
		st.Degraded = true
		st.Verdict = "degraded: " + trouble + "; " + st.Verdict
	}
	if s.drains.Load() {
		st.Degraded = true
		st.Verdict = draining + "; " + st.Verdict
	}
	var waits string
	st.Transports, waits = s.transports()
	st.Verdict += waits
	return st, nil
}

// verdict says in one line how the transports are, and what the filter does.
func (s *Process) verdict(h transport.Health) string {
	filter := "on"
	if pauses := s.Decisions.Pauses(); pauses != "" {
		filter = "paused " + pauses
	}
	verdict := line(h) + ", filter " + filter
	missing := 0
	for _, l := range s.Live.ListStatus() {
		if l.Err != nil {
			missing++
		}
	}
	if missing > 0 {
		verdict += fmt.Sprintf(", lists missing: %d", missing)
	}
	return verdict + s.Follow.OnDemand()
}

// troubles says what is wrong, a sentence for each part, the most urgent one last. st has the peers and the fleet.
func (s *Process) troubles(now *edition.Edition, st control.Status, expired []string) (list []string) {
	add := func(trouble string) {
		if trouble != "" {
			list = append(list, trouble)
		}
	}
	add(strings.Join(now.Lists.Empty(), "; "))
	add(s.Laptop.Trouble())
	add(s.Decisions.Trouble())
	add(s.Phones.Trouble())
	add(strings.Join(expired, "; "))
	add(s.ACME.Trouble())
	if s.Health != nil {
		if err := s.Health.Err(); err != nil {
			add(err.Error())
		}
	}
	if st.Peers != nil {
		if n := len(st.Peers.Bad); n > 0 {
			add(fmt.Sprintf("files of peers with faults: %d", n))
		}
		add(s.Gateway.Trouble())
	}
	add(fleetTrouble(st.Fleet))
	if fault := s.fault.Load(); fault != nil {
		add("runs the last good configuration, because the present one has a fault: " + *fault)
	}
	return list
}

// targets returns what the last dials of the health targets found.
func (s *Process) targets() (list []control.HealthTarget) {
	if s.Health == nil {
		return nil
	}
	for _, t := range s.Health.Last() {
		one := control.HealthTarget{Target: t.Name, Reached: t.Err == nil, Since: t.Since}
		if t.Err != nil {
			one.Error = t.Err.Error()
		}
		list = append(list, one)
	}
	return list
}

// transports returns the transports and the groups. waits goes on with the verdict: it says which of them wait for their user.
func (s *Process) transports() (list []control.TransportStatus, waits string) {
	for _, t := range s.Egress.Transports() {
		one := transportStatus(t.Kind, t.Health())
		one.Warnings = t.Warnings
		if q, asks := t.Question(); asks {
			one.SignIn, one.SignInID, one.SignInWhy = cmp.Or(q.URL, q.Text, control.BeginAgain), q.ID, q.Why
			waits += fmt.Sprintf("; %s waits for its user: penstock login %s", t.Name, t.Name)
		}
		list = append(list, one)
	}
	for _, g := range s.Egress.Groups() {
		current := g.Current()
		t := transportStatus("failover", current.Health())
		t.Name, t.Active = g.Name, current.Name
		list = append(list, t)
	}
	return list, waits
}

// certificates says which certificates in files have expired or cannot be read, and which will soon expire.
func (s *Process) certificates(now time.Time) (expired, expiring []string) {
	for _, f := range config.CertificateFiles(s.Live.Config()) {
		leaf, err := f.Leaf()
		text := ""
		switch {
		case err != nil:
			text = fmt.Sprintf("%s: the certificate in %s cannot be read: %v", f.Use, f.Path, err)
		default:
			text = f.Expired(leaf, now)
		}
		if text != "" && f.Use != "dns.serve" { // see privatedns.Service.Trouble
			expired = append(expired, text)
		}
		if err != nil {
			continue
		}
		if text := f.Expires(leaf, now); text != "" {
			expiring = append(expiring, text)
		}
	}
	return expired, expiring
}

// fleetTrouble says what this gateway lacks as one of a fleet, or "". That others are silent is not its own trouble.
func fleetTrouble(f *control.Fleet) string {
	if f == nil {
		return ""
	}
	var troubles []string
	if f.Trouble != "" {
		troubles = append(troubles, f.Trouble)
	}
	for _, g := range f.Gateways {
		if g.Name == f.Gateway && g.Fault != "" {
			first, _, _ := strings.Cut(g.Fault, "\n")
			troubles = append(troubles, fmt.Sprintf("generation %d of the site's bundle is not put in force: %s", g.Refused, first))
		}
	}
	if !f.Connected {
		troubles = append(troubles, "the store of the fleet cannot be used")
	}
	return strings.Join(troubles, "; ")
}

// otherVPNs sorts networks by the interface and the table that lead to them.
func otherVPNs(list []direct.Other) []control.OtherVPN {
	var out []control.OtherVPN
	for _, o := range list {
		if o.Interface == "" {
			continue
		}
		i := slices.IndexFunc(out, func(v control.OtherVPN) bool { return v.Interface == o.Interface && v.Table == o.Table })
		if i < 0 {
			i = len(out)
			out = append(out, control.OtherVPN{Interface: o.Interface, Table: o.Table})
		}
		out[i].Networks = append(out[i].Networks, o.Network.String())
	}
	return out
}

// ReloadEnded keeps the error of the last reload for the status; nil clears it. A reload of everything is one of the peers too.
func (s *Process) ReloadEnded(peersOnly bool, err error) {
	if !peersOnly {
		s.refused[1].Store(nil)
	}
	i := 0
	if peersOnly {
		i = 1
	}
	s.refused[i].Store(nil)
	if err != nil {
		text := err.Error()
		s.refused[i].Store(&text)
	}
}

// reloadError returns why the last reload was refused, or "".
func (s *Process) reloadError() string {
	for i := range s.refused {
		if text := s.refused[i].Load(); text != nil {
			return *text
		}
	}
	return ""
}

// Waits keeps which sections of the configuration have changed since the start and need a restart, for the status.
func (s *Process) Waits(sections []string) { s.waiting.Store(&sections) }

// RunsCopy says in the status that penstock runs the last good configuration, because of a fault of the present one. With nil it
// does so no longer.
func (s *Process) RunsCopy(fault error) {
	if fault == nil {
		s.fault.Store(nil)
		return
	}
	first, _, _ := strings.Cut(fault.Error(), "\n")
	s.fault.Store(&first)
}

// hasPeers reports whether there are peers, or can be.
func (s *Process) hasPeers() bool { return s.Gateway != nil || s.Live.Config().Peers.Len() > 0 }

// Listening returns where flows come from.
func (s *Process) Listening() []string {
	var list []string
	if s.Live.Config().Listen.TUN != nil {
		list = append(list, "tun "+s.Laptop.Interface())
	}
	if s.Gateway != nil {
		list = append(list, fmt.Sprintf("wireguard :%d", s.Gateway.Port()))
	}
	if p := s.Live.Config().Listen.Proxy; p != nil {
		list = append(list, "proxy "+p.Address.String())
	}
	return list
}

func transportStatus(kind string, h transport.Health) control.TransportStatus {
	return control.TransportStatus{
		Name: h.Name, Kind: kind, State: h.State.String(), Degraded: h.Degraded, Reason: string(h.Reason), Error: h.Err,
		Since: h.Since, LastRx: h.Stats.LastRx, RxBytes: h.Stats.RxBytes, TxBytes: h.Stats.TxBytes,
		Endpoint: h.Stats.Endpoint, Others: h.Stats.Others, Reconnects: h.Reconnects,
	}
}

// words returns a verdict in the words of the configuration.
func words(v policy.Verdict) (word, via string) {
	switch {
	case v.Action == policy.Drop:
		return "drop", ""
	case v.Action != policy.Forward:
		return "block", ""
	case v.Egress == policy.EgressPeers:
		return policy.EgressDirect, ""
	case v.Egress == policy.EgressDirect, v.Egress == policy.EgressDNS:
		return v.Egress, ""
	}
	return "via", v.Egress
}

package openvpn

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/control"
	"penstock/router/transport/openvpn/internal/data"
	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/framing"
	"penstock/router/transport/openvpn/internal/link"
	"penstock/router/transport/openvpn/internal/push"
	"penstock/router/transport/openvpn/internal/text"
	"penstock/router/transport/openvpn/profile"
)

// switchSlack is how long beyond one ping interval we wait for the server to prove that it has the new key. Packets
// sealed with the new key before the server has it would be lost: 3 to 7 s at 15 % loss.
const switchSlack = 5 * time.Second

// pushReply takes the server's options: those that establish the session, or later ones that bring a new token.
func (s *session) pushReply(n *control.Negotiation, message string) error {
	if s.options != nil {
		o, err := push.ParseLater(message)
		if err != nil {
			return pushFailed(err)
		}
		s.sent = s.client.login.Token(s.sent, o.Token, o.TokenUser)
		return nil
	}
	if n != s.control.Pending() || !n.Exchanged() {
		return nil
	}
	complete, err := s.pushed.Add(message)
	if err != nil {
		return failed(transport.ReasonHandshakeFailed, err)
	}
	if !complete {
		return nil
	}
	return s.establish(n)
}

// pushFailed is an error of options that cannot be met.
func pushFailed(err error) error {
	if errors.Is(err, push.ErrCompression) {
		return blocked(err)
	}
	return failed(transport.ReasonError, err)
}

// establish turns the options into a session that carries data.
func (s *session) establish(n *control.Negotiation) error {
	o, err := s.interpret()
	if err != nil {
		return err
	}
	if err := chooseCipher(s.client.cfg.Profile, o); err != nil {
		return err
	}
	if err := checkSummary(n.ServerOptions()); err != nil {
		return err
	}
	if err := chooseFraming(s.client.cfg.Profile, o, n.ServerOptions(), s.log); err != nil {
		return err
	}
	o.Finish(link.IsTCP(s.remote.Network), s.data.Remote(), s.client.cfg.Profile.MTU)
	s.liveness = newLiveness(o, s.client.cfg.Profile.Timers)
	if o.DynamicWrap {
		if err := s.control.ProtectAnew(n); err != nil {
			return failed(transport.ReasonHandshakeFailed, err)
		}
	}
	s.sent = s.client.login.Token(s.sent, o.Token, o.TokenUser)
	s.client.login.Accepted()
	if err := s.client.configure(o); err != nil {
		return err
	}
	s.options = o
	s.retract()
	now := time.Now()
	s.data.Signs.Begin(now)
	if err := s.install(n, now); err != nil {
		return err
	}
	close(s.ready)
	return nil
}

// interpret reads all options together: the profile's own, then the server's that it lets through.
func (s *session) interpret() (*push.Options, error) {
	p := s.client.cfg.Profile
	o, err := s.pushed.Parse(p)
	if err != nil {
		return nil, pushFailed(err)
	}
	for _, problem := range o.Problems {
		if errors.Is(problem, push.ErrRoute) {
			s.log.Warn("the server pushed a route that cannot be followed", "err", problem)
			continue
		}
		s.log.Debug("pushed option ignored", "err", problem)
	}
	return o, nil
}

func chooseCipher(p *profile.Profile, o *push.Options) error {
	if o.Cipher == "" {
		o.Cipher = p.Fallback
	}
	switch {
	case o.Cipher == "":
		return blocked(errors.New("the server does not negotiate a cipher: the profile needs data-ciphers-fallback"))
	case !o.Cipher.Known(), o.Cipher != p.Fallback && !slices.Contains(p.Ciphers, o.Cipher):
		return blocked(fmt.Errorf("the server chose cipher %q, which was not offered", text.Printable(string(o.Cipher))))
	case o.Epoch && !o.Exporter:
		return failed(transport.ReasonHandshakeFailed, errors.New("the server wants epoch keys without the TLS exporter"))
	}
	return nil
}

// checkSummary compares the server's summary of its options with what this client can do. Some servers keep it to
// themselves; then it says nothing.
func checkSummary(server string) error {
	options := strings.Split(server, ",")
	switch {
	case slices.Contains(options, "dev-type tap"):
		return blocked(errors.New("the server is a bridge (dev tap), and only dev tun is supported: the server needs dev tun"))
	case slices.Contains(options, "mtu-dynamic"):
		return blocked(errors.New("the server splits packets (fragment), which is not supported: remove fragment from the server's file"))
	}
	return nil
}

// chooseFraming takes what the server pushed, then what the profile says. The server's summary says whether it frames
// packets at all: where one side does and the other does not, nothing would pass.
func chooseFraming(p *profile.Profile, o *push.Options, server string, log *slog.Logger) error {
	if o.Framed {
		return nil
	}
	o.Framing = p.Framing
	options := strings.Split(server, ",")
	tells := options[0] == "V4"                    // "V0 UNDEF" or nothing: it keeps them to itself
	frames := slices.Contains(options, "comp-lzo") // whatever the kind
	switch {
	case !tells || frames == (o.Framing != framing.None):
	case frames:
		return blocked(errors.New(`the server frames data packets for compression, and neither it nor the profile says how: ` +
			`add "comp-lzo no" to the profile, or the compress line that the server has`))
	default:
		log.Warn("the profile asks for compression framing, and the server does not frame packets: left out")
		o.Framing = framing.None
	}
	return nil
}

func (c *Client) configure(o *push.Options) error {
	if c.cfg.Configure == nil {
		return nil
	}
	if err := c.cfg.Configure(o.Settings); err != nil {
		return failed(transport.ReasonError, fmt.Errorf("configure: %w", err))
	}
	return nil
}

// pushUpdate changes options of a running session: addresses, routes and DNS, never keys.
func (s *session) pushUpdate(message string) error {
	if s.options == nil {
		return nil
	}
	complete, err := s.pushed.Change(message)
	if err != nil {
		return failed(transport.ReasonError, err)
	}
	if !complete {
		return nil
	}
	o, err := s.interpret()
	if err != nil {
		return err
	}
	o.Framing, o.Epoch = s.options.Framing, s.options.Epoch
	o.Finish(link.IsTCP(s.remote.Network), s.data.Remote(), s.client.cfg.Profile.MTU)
	if err := s.client.configure(o); err != nil {
		return err
	}
	s.options.Settings = o.Settings
	return nil
}

// install derives n's data key and makes n the current negotiation.
func (s *session) install(n *control.Negotiation, now time.Time) error {
	o := s.options
	key, err := s.control.Key(n, o.Exporter, datakey.Params{Cipher: o.Cipher, Epoch: o.Epoch, PeerID: o.PeerID, V2: o.V2})
	if err != nil {
		return failed(transport.ReasonHandshakeFailed, err)
	}
	if id, ok := s.control.Finish(n, now); ok {
		s.data.Keys.Remove(id)
	}
	transition := defaultTransition
	if t := s.client.cfg.Profile.Timers.Transition; t > 0 {
		transition = t
	}
	s.client.meter.negotiated(now)
	s.log.Debug("keys negotiated", "key_id", n.KeyID(), "cipher", string(o.Cipher), "epoch", o.Epoch)
	s.data.Install(n.KeyID(), key, data.Format{V2: o.V2, Framing: o.Framing}, now.Add(s.liveness.ping+switchSlack), now.Add(transition))
	return nil
}

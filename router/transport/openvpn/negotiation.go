package openvpn

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/reliable"
	"penstock/router/transport/openvpn/internal/wire"
)

const (
	maxFragment   = 1150 // bytes of TLS in a control packet: the datagram stays below 1250
	firstFragment = 800  // with the wrapped key behind it

	maxMessage = 128 << 10 // bytes of one control message

	dynamicLabel = "EXPORTER-OpenVPN-dynamic-tls-crypt"
)

// negotiation is one key id: its reliable stream, its own TLS connection, and what became of them. Each renegotiation is
// a new one; the TLS connection of the old lives on for messages of the server.
type negotiation struct {
	keyID     uint8
	stream    reliable.Stream
	pipe      *reliable.Pipe
	conn      *tls.Conn
	started   bool // TLS is running
	exchanged bool // both sides have sent their key exchange message
	sendWKC   bool // the first TLS packet carries the wrapped key

	window   time.Duration
	deadline time.Time // to be done
	doneAt   time.Time

	secrets wire.Secrets
	server  wire.Secrets
}

// begin opens a negotiation with its reset packet.
func (s *session) begin(keyID uint8, reset wire.Opcode, now time.Time) {
	n := &negotiation{keyID: keyID, pipe: reliable.NewPipe(s.nudge), window: defaultHandWindow}
	if w := s.client.cfg.Profile.handWindow; w > 0 {
		n.window = w
	}
	n.stream.RTT = &s.rtt
	n.deadline = now.Add(n.window)
	n.stream.Send(reset, nil)
	s.negotiations[keyID] = n
	s.pending = n
	s.data.awaited.Store(uint32(keyID) + 1)
}

// nextKeyID counts 1 to 7 and starts over: 0 is only ever the first.
func (s *session) nextKeyID() uint8 { return s.current.keyID%7 + 1 }

// flush sends every control packet that is due.
func (s *session) flush(now time.Time) error {
	for _, n := range s.negotiations {
		if n == nil {
			continue
		}
		n.fill()
		for {
			out, ok := n.stream.Next(now)
			if !ok {
				break
			}
			if out.Again {
				s.client.cfg.Metrics.retransmit(s.client.cfg.Name)
			}
			if err := s.transmit(n, out); err != nil {
				return err
			}
		}
	}
	return nil
}

// fill moves TLS bytes into the stream, as long as they would be sent at once.
func (n *negotiation) fill() {
	for n.stream.Room() > 0 {
		op, size := wire.Control, maxFragment
		if n.sendWKC {
			op, size = wire.ControlWKC, firstFragment
		}
		b := n.pipe.Take(size)
		if len(b) == 0 {
			return
		}
		n.sendWKC = false
		n.stream.Send(op, b)
	}
}

// flushed reports whether everything written has been acknowledged.
func (n *negotiation) flushed() bool {
	n.fill()
	return n.stream.Waiting() == 0
}

// write sends a control message. TLS must be up; it does not block.
func (n *negotiation) write(message string) error {
	if n.conn == nil {
		return nil
	}
	_, err := n.conn.Write(append([]byte(message), 0))
	return err
}

// wrapOf returns what protects the packets of a key id.
func (s *session) wrapOf(keyID uint8) wire.Wrap {
	if keyID > 0 && s.dynamic != nil {
		return s.dynamic
	}
	return s.base
}

func (s *session) transmit(n *negotiation, out reliable.Outgoing) error {
	packet := wire.Packet{Op: out.Op, KeyID: n.keyID, Session: s.id, Acks: out.Acks, Peer: s.peer, ID: out.ID, Payload: out.Payload}
	sealed := s.wrapOf(n.keyID).Seal(&packet)
	buffer := append(make([]byte, linkHead, linkHead+len(sealed)), sealed...)
	if out.Op == wire.HardResetClientV3 || out.Op == wire.ControlWKC {
		buffer = append(buffer, s.client.cfg.Profile.wrap.wkc...)
	}
	err := s.outer().control(buffer)
	if errors.Is(err, errLinkStalled) {
		return s.client.failed(transport.ReasonError, err)
	}
	if err != nil {
		s.linkTrouble(err)
		return nil // lost, as any packet can be
	}
	s.client.counters.sent(len(buffer)-linkHead, time.Now())
	return nil
}

// negotiate runs TLS and the key exchange as the client, then hands the server's messages to the session.
func (s *session) negotiate(n *negotiation, hello wire.KeyExchange) {
	conn := tls.Client(n.pipe, s.tls)
	if err := conn.HandshakeContext(s.lifetime); err != nil {
		s.post(func() error { return s.broken(n, fmt.Errorf("TLS handshake: %w", err)) })
		return
	}
	if _, err := conn.Write(hello.Append(nil, true)); err != nil {
		s.post(func() error { return s.broken(n, err) })
		return
	}
	reader := bufio.NewReaderSize(conn, maxMessage)
	reply, err := wire.ReadKeyExchange(reader, false)
	if err != nil {
		s.post(func() error { return s.broken(n, err) })
		return
	}
	s.post(func() error { return s.keysExchanged(n, conn, reply) })
	for {
		message, err := reader.ReadSlice(0)
		if err != nil {
			s.post(func() error { return s.broken(n, err) })
			return
		}
		text := string(message[:len(message)-1])
		s.post(func() error { return s.message(n, text) })
	}
}

// broken is told that a negotiation's TLS connection has ended.
func (s *session) broken(n *negotiation, err error) error {
	if s.negotiations[n.keyID] != n || n == s.previous {
		return nil
	}
	return s.client.failed(transport.ReasonHandshakeFailed, fmt.Errorf("%s: %w", s.stage(), err))
}

// startTLS begins the TLS handshake of n, as the client, whoever asked for it.
func (s *session) startTLS(n *negotiation) error {
	n.started = true
	hello, err := s.hello()
	if err != nil {
		return s.client.failed(transport.ReasonError, err)
	}
	n.secrets = hello.Secrets
	s.wg.Go(func() { s.negotiate(n, hello) })
	return nil
}

// hello is our key exchange message.
func (s *session) hello() (wire.KeyExchange, error) {
	k := wire.KeyExchange{
		Options:  s.client.cfg.Profile.occ(s.network),
		PeerInfo: s.client.peerInfo(),
		User:     s.sent.user,
		Password: string(s.sent.password),
	}
	for _, b := range [][]byte{k.PreMaster[:], k.Random1[:], k.Random2[:]} {
		if _, err := rand.Read(b); err != nil {
			return k, err
		}
	}
	return k, nil
}

// keysExchanged has both key exchange messages of n. The first negotiation then waits for the server's options.
func (s *session) keysExchanged(n *negotiation, conn *tls.Conn, reply *wire.KeyExchange) error {
	n.conn, n.exchanged, n.server = conn, true, reply.Secrets
	if s.push == nil {
		s.askAt = time.Now().Add(askFirst)
		s.reach("waiting for the server's options")
		return nil
	}
	return s.install(n, time.Now())
}

// install derives n's data key and makes n the current negotiation.
func (s *session) install(n *negotiation, now time.Time) error {
	material, err := s.material(n)
	if err != nil {
		return s.client.failed(transport.ReasonHandshakeFailed, err)
	}
	key, err := datakey.New(material, datakey.Params{
		Cipher: s.push.cipher, Epoch: s.push.epoch, KeyID: n.keyID, PeerID: s.push.peerID, V2: s.push.v2,
	})
	if err != nil {
		return s.client.failed(transport.ReasonHandshakeFailed, err)
	}
	if s.previous != nil {
		s.retire()
	}
	s.previous, s.current, s.pending = s.current, n, nil
	n.doneAt = now
	n.deadline = time.Time{}
	transition := defaultTransition
	if t := s.client.cfg.Profile.transition; t > 0 {
		transition = t
	}
	s.client.counters.lastHandshake.set(now)
	s.client.cfg.Metrics.negotiated(s.client.cfg.Name)
	s.log.Debug("keys negotiated", "key_id", n.keyID, "cipher", string(s.push.cipher), "epoch", s.push.epoch)
	s.reach("carrying data")
	s.data.install(s, n.keyID, key, now.Add(s.liveness.ping+switchSlack), now.Add(transition))
	return nil
}

// material is the key material of n's data key.
func (s *session) material(n *negotiation) (*wire.StaticKey, error) {
	if !s.push.exporter {
		keys := datakey.FromPRF(&n.secrets, &n.server, s.id, s.peer)
		return &keys, nil
	}
	return export(n.conn, datakey.ExporterLabel)
}

func export(conn *tls.Conn, label string) (*wire.StaticKey, error) {
	state := conn.ConnectionState()
	b, err := state.ExportKeyingMaterial(label, nil, len(wire.StaticKey{}))
	if err != nil {
		return nil, fmt.Errorf("export keys from TLS: %w", err)
	}
	return (*wire.StaticKey)(b), nil
}

// deriveDynamic replaces the wrap of later key ids by one that only this session's two sides know.
func (s *session) deriveDynamic(n *negotiation) error {
	key, err := export(n.conn, dynamicLabel)
	if err != nil {
		return err
	}
	if static := s.client.cfg.Profile.wrap.key; static != nil {
		for i := range key {
			key[i] ^= static[i]
		}
	}
	s.dynamic, err = wire.NewTLSCrypt(key, wire.Inverse, time.Now)
	return err
}

// retire forgets the previous negotiation with its key.
func (s *session) retire() {
	n := s.previous
	s.previous = nil
	s.negotiations[n.keyID] = nil
	n.pipe.Fail(errRetired)
	s.data.remove(n.keyID)
}

var errRetired = errors.New("openvpn: the negotiation was replaced")

// keyIsOld reports that we are to start a renegotiation. Time is left to the server unless the profile has its own.
func (s *session) keyIsOld(now time.Time) bool {
	if at := s.renegotiateAt(); !at.IsZero() && !now.Before(at) {
		return true
	}
	return s.data.spent()
}

func (s *session) renegotiateAt() time.Time {
	if every := s.client.cfg.Profile.renegotiate; every > 0 && s.pending == nil && s.current != nil {
		return s.current.doneAt.Add(every)
	}
	return time.Time{}
}

// occ is the summary of options that servers compare and, at worst, warn about.
func (p *Profile) occ(network string) string {
	proto := "UDPv4"
	if isTCP(network) {
		proto = "TCPv4_CLIENT"
	}
	out := "V4,dev-type tun,link-mtu 1541,tun-mtu 1500,proto " + proto
	if p.fallback != "" {
		out += ",cipher " + string(p.fallback)
	}
	if p.wrap.kind == wrapTLSAuth {
		if p.wrap.direction == wire.Inverse {
			out += ",keydir 1"
		}
		out += ",tls-auth"
	}
	return out + ",auth SHA1,keysize 128,key-method 2,tls-client"
}

// IV_PROTO: DATA_V2, REQUEST_PUSH, TLS_KEY_EXPORT, AUTH_PENDING_KW, CC_EXIT_NOTIFY, AUTH_FAIL_TEMP, DYN_TLS_CRYPT,
// DATA_EPOCH, DNS_OPTION_V2, PUSH_UPDATE (reference: ssl.h).
const protocolBits = 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12

// peerInfo tells the server what this client can do.
func (c *Client) peerInfo() string {
	p := c.cfg.Profile
	ciphers := make([]string, len(p.ciphers))
	for i, name := range p.ciphers {
		ciphers[i] = string(name)
	}
	version := c.cfg.Version
	if version == "" {
		version = "penstock"
	}
	lines := []string{
		"IV_VER=2.6.0", // the level of the protocol, which servers parse; the product is in IV_GUI_VER
		"IV_PLAT=" + platform(),
		"IV_TCPNL=1",
		fmt.Sprintf("IV_MTU=%d", announcedMTU),
		"IV_NCP=2",
		"IV_CIPHERS=" + strings.Join(ciphers, ":"),
		fmt.Sprintf("IV_PROTO=%d", protocolBits),
		"IV_GUI_VER=" + version,
	}
	if c.cfg.Credentials != nil {
		lines = append(lines, "IV_SSO=webauth,crtext")
	}
	return strings.Join(append(lines, p.peerInfo...), "\n") + "\n"
}

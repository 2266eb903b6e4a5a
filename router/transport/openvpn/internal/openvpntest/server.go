// Package openvpntest imitates an OpenVPN server inside a test process: no root, no TUN. It serves one client at a time
// and answers the ICMP echo requests that come through the tunnel.
//
// It is made of the client's own wire formats. It proves the client's behaviour and does not prove the formats: test
// vectors and the real server do.
package openvpntest

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/reliable"
	"penstock/router/transport/openvpn/internal/wire"
)

// Config is what a Server does. TLS is required.
type Config struct {
	Network string                    // "udp" (default) or "tcp"
	TLS     *tls.Config               // the server's side
	Wrap    func() (wire.Wrap, error) // a fresh wrap per session; nil: no protection
	WKC     []byte                    // expected behind the first packets (tls-crypt-v2), and asked for twice
	Key     *wire.StaticKey           // mixed into the dynamic wrap; nil: none
	Dynamic bool                      // dynamic tls-crypt
	Data    datakey.Params            // of the data channel; KeyID and Server are filled in
	PRF     bool                      // keys from the PRF, not from the exporter
	Push    []string                  // the PUSH_REPLY messages; nil: one that fits the rest of Config
	// Reply says what to answer to a key exchange; "" pushes. nil: always push.
	Reply func(user, password string) string
	// Filter sees every packet from the client first and may drop it.
	Filter func(packet []byte) bool
	// Silent servers answer the reset and then nothing.
	Silent bool
}

// Server is a running server.
type Server struct {
	t    testing.TB
	cfg  Config
	Addr netip.AddrPort

	packets  net.PacketConn
	listener net.Listener
	done     chan struct{}
	deaf     atomic.Bool // reads nothing more from TCP clients
	wg       sync.WaitGroup

	mu       sync.Mutex // guards below
	session  *session
	conns    map[net.Conn]bool
	messages []string
	logins   []string
	seen     []Seen
}

// Seen is the header of a packet that came from the client.
type Seen struct {
	Op    wire.Opcode
	KeyID uint8
	Size  int
}

// session is the server's side of one client.
type session struct {
	id, peer wire.SessionID
	send     func([]byte)
	base     wire.Wrap
	dynamic  wire.Wrap
	rtt      reliable.RTT
	negs     [8]*negotiation
	newest   *negotiation // exchanged
	started  bool         // pushed
	gone     bool
}

type negotiation struct {
	keyID   uint8
	stream  reliable.Stream
	pipe    *reliable.Pipe
	conn    *tls.Conn
	key     datakey.Key
	client  wire.Secrets
	own     wire.Secrets
	running bool
}

// Start runs a server on the loopback until the end of the test.
func Start(t testing.TB, cfg Config) *Server {
	t.Helper()
	if cfg.Network == "" {
		cfg.Network = "udp"
	}
	if cfg.Data.Cipher == "" {
		cfg.Data.Cipher = datakey.AES256GCM
	}
	s := &Server{t: t, cfg: cfg, done: make(chan struct{}), conns: make(map[net.Conn]bool)}
	var err error
	if cfg.Network == "tcp" {
		if s.listener, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		s.Addr = s.listener.Addr().(*net.TCPAddr).AddrPort()
		s.wg.Go(s.acceptTCP)
	} else {
		if s.packets, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		s.Addr = s.packets.LocalAddr().(*net.UDPAddr).AddrPort()
		s.wg.Go(s.readUDP)
	}
	s.wg.Go(s.flushRegularly)
	t.Cleanup(s.Close)
	return s
}

// Close stops the server without telling the client.
func (s *Server) Close() {
	s.mu.Lock()
	select {
	case <-s.done:
	default:
		close(s.done)
	}
	s.forgetLocked()
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	if s.listener != nil {
		_ = s.listener.Close()
	}
	if s.packets != nil {
		_ = s.packets.Close()
	}
	s.wg.Wait()
}

// Forget drops the session, as a server that was started again has.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked()
}

func (s *Server) forgetLocked() {
	if s.session == nil {
		return
	}
	s.session.gone = true
	for _, n := range s.session.negs {
		if n != nil {
			n.pipe.Fail(net.ErrClosed)
		}
	}
	s.session = nil
}

func (s *Server) readUDP() {
	b := make([]byte, 4096)
	for {
		n, from, err := s.packets.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		s.receive(append(make([]byte, 0, n+datakey.Tail), b[:n]...), func(p []byte) { _, _ = s.packets.WriteTo(p, from) })
	}
}

func (s *Server) acceptTCP() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[conn] = true
		s.mu.Unlock()
		s.wg.Go(func() {
			defer func() { _ = conn.Close() }()
			var head [2]byte
			for {
				if _, err := io.ReadFull(conn, head[:]); err != nil {
					return
				}
				size := int(binary.BigEndian.Uint16(head[:]))
				packet := make([]byte, size, size+datakey.Tail)
				if _, err := io.ReadFull(conn, packet); err != nil {
					return
				}
				if s.deaf.Load() {
					<-s.done
					return
				}
				s.receive(packet, func(p []byte) {
					_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...))
				})
			}
		})
	}
}

func (s *Server) flushRegularly() {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.mu.Lock()
			s.flushLocked()
			s.mu.Unlock()
		case <-s.done:
			return
		}
	}
}

// receive takes one packet of the client; send answers to where it came from.
func (s *Server) receive(packet []byte, send func([]byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(packet) == 0 || s.cfg.Filter != nil && !s.cfg.Filter(packet) {
		return
	}
	op, keyID := wire.ParseHeader(packet[0])
	s.seen = append(s.seen, Seen{op, keyID, len(packet)})
	if op.IsData() {
		s.dataLocked(keyID, packet, send)
		return
	}
	if op == wire.HardResetClientV3 || op == wire.ControlWKC {
		if len(s.cfg.WKC) == 0 || !strings.HasSuffix(string(packet), string(s.cfg.WKC)) {
			s.t.Errorf("opcode %d without the wrapped key", op)
			return
		}
		packet = packet[:len(packet)-len(s.cfg.WKC)]
	}
	_, _, from, err := wire.ParseOuter(packet)
	if err != nil {
		return
	}
	if s.session == nil || s.session.peer != from {
		if op != wire.HardResetClient && op != wire.HardResetClientV3 {
			return
		}
		if !s.openLocked(from, send) {
			return
		}
	}
	s.controlLocked(packet, keyID, send)
	s.flushLocked()
}

// openLocked starts a session for a new client, in place of any other.
func (s *Server) openLocked(from wire.SessionID, send func([]byte)) bool {
	s.forgetLocked()
	fresh := &session{peer: from, send: send, base: wire.Plain{}}
	_, _ = rand.Read(fresh.id[:])
	if s.cfg.Wrap != nil {
		var err error
		if fresh.base, err = s.cfg.Wrap(); err != nil {
			s.t.Errorf("wrap: %v", err)
			return false
		}
	}
	s.session = fresh
	var payload []byte
	if len(s.cfg.WKC) > 0 {
		payload = []byte{0, 1, 0, 2, 0, 1}
	}
	s.beginLocked(fresh, 0, wire.HardResetServer, payload)
	return true
}

func (s *Server) beginLocked(c *session, keyID uint8, reset wire.Opcode, payload []byte) *negotiation {
	n := &negotiation{keyID: keyID, pipe: reliable.NewPipe(func() {})}
	n.stream.RTT = &c.rtt
	n.stream.Send(reset, payload)
	c.negs[keyID] = n
	return n
}

func (c *session) wrapOf(keyID uint8) wire.Wrap {
	if keyID > 0 && c.dynamic != nil {
		return c.dynamic
	}
	return c.base
}

func (s *Server) controlLocked(packet []byte, keyID uint8, send func([]byte)) {
	c := s.session
	body, err := c.wrapOf(keyID).Open(packet)
	if err != nil {
		return
	}
	p, err := wire.ParsePacket(packet, body)
	if err != nil || len(p.Acks) > 0 && p.Peer != c.id {
		return
	}
	c.send = send
	n := c.negs[keyID]
	if n == nil {
		if p.Op != wire.SoftReset || !c.started || keyID != c.newest.keyID%7+1 {
			return
		}
		n = s.beginLocked(c, keyID, wire.SoftReset, nil)
	}
	now := time.Now()
	n.stream.Acked(p.Acks, now)
	if p.Op == wire.Ack {
		return
	}
	for _, in := range n.stream.Receive(p.Op, p.ID, append([]byte(nil), p.Payload...)) {
		if in.Op == wire.Control || in.Op == wire.ControlWKC {
			_ = n.pipe.Deliver(in.Payload)
		}
		if !n.running && !s.cfg.Silent {
			n.running = true
			s.wg.Go(func() { s.serveTLS(c, n) })
		}
	}
}

func (s *Server) flushLocked() {
	c := s.session
	if c == nil {
		return
	}
	now := time.Now()
	for _, n := range c.negs {
		if n == nil {
			continue
		}
		for n.stream.Room() > 0 {
			b := n.pipe.Take(1100)
			if len(b) == 0 {
				break
			}
			n.stream.Send(wire.Control, b)
		}
		for {
			out, ok := n.stream.Next(now)
			if !ok {
				break
			}
			c.send(c.wrapOf(n.keyID).Seal(&wire.Packet{Op: out.Op, KeyID: n.keyID, Session: c.id, Acks: out.Acks, Peer: c.peer, ID: out.ID, Payload: out.Payload}))
		}
	}
}

// serveTLS is the server's side of one negotiation.
func (s *Server) serveTLS(c *session, n *negotiation) {
	conn := tls.Server(n.pipe, s.cfg.TLS)
	if err := conn.Handshake(); err != nil {
		s.mu.Lock()
		s.flushLocked() // the alert
		s.mu.Unlock()
		return
	}
	reader := bufio.NewReaderSize(conn, 64<<10)
	hello, err := wire.ReadKeyExchange(reader, true)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.logins = append(s.logins, hello.User+":"+hello.Password)
	s.mu.Unlock()
	reply := wire.KeyExchange{Options: "V4,dev-type tun,link-mtu 1541,tun-mtu 1500,proto UDPv4,auth SHA1,keysize 128,key-method 2,tls-server"}
	_, _ = rand.Read(reply.Random1[:])
	_, _ = rand.Read(reply.Random2[:])
	if _, err := conn.Write(reply.Append(nil, false)); err != nil {
		return
	}
	answer := ""
	if s.cfg.Reply != nil {
		answer = s.cfg.Reply(hello.User, hello.Password)
	}
	s.mu.Lock()
	n.conn, n.client, n.own = conn, hello.Secrets, reply.Secrets
	first := !c.started
	if err := s.installLocked(c, n); err != nil {
		s.t.Errorf("install keys: %v", err)
	}
	s.mu.Unlock()
	if answer != "" {
		_, _ = conn.Write(append([]byte(answer), 0))
	}
	if first && answer == "" {
		for _, m := range s.push() {
			_, _ = conn.Write(append([]byte(m), 0))
		}
	}
	for {
		message, err := reader.ReadString(0)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.messages = append(s.messages, strings.TrimSuffix(message, "\x00"))
		s.mu.Unlock()
	}
}

// push is what the server pushes.
func (s *Server) push() []string {
	if s.cfg.Push != nil {
		return s.cfg.Push
	}
	flags := " cc-exit"
	if !s.cfg.PRF {
		flags += " tls-ekm"
	}
	if s.cfg.Dynamic {
		flags += " dyn-tls-crypt"
	}
	if s.cfg.Data.Epoch {
		flags += " aead-epoch"
	}
	m := fmt.Sprintf("PUSH_REPLY,route-gateway 10.9.0.1,topology subnet,ping 1,ping-restart 10,ifconfig 10.9.0.2 255.255.255.0,cipher %s,protocol-flags%s,tun-mtu 1500", s.cfg.Data.Cipher, flags)
	if s.cfg.Data.V2 {
		m += fmt.Sprintf(",peer-id %d", s.cfg.Data.PeerID)
	}
	return []string{m}
}

// installLocked derives n's data key, which is used once the client has acknowledged everything.
func (s *Server) installLocked(c *session, n *negotiation) error {
	state := n.conn.ConnectionState()
	if s.cfg.Dynamic && c.dynamic == nil {
		b, err := state.ExportKeyingMaterial("EXPORTER-OpenVPN-dynamic-tls-crypt", nil, 256)
		if err != nil {
			return err
		}
		key := wire.StaticKey(b)
		if s.cfg.Key != nil {
			for i := range key {
				key[i] ^= s.cfg.Key[i]
			}
		}
		if c.dynamic, err = wire.NewTLSCrypt(&key, wire.Normal, time.Now); err != nil {
			return err
		}
	}
	material := datakey.FromPRF(&n.client, &n.own, c.peer, c.id)
	if !s.cfg.PRF {
		b, err := state.ExportKeyingMaterial(datakey.ExporterLabel, nil, 256)
		if err != nil {
			return err
		}
		material = wire.StaticKey(b)
	}
	p := s.cfg.Data
	p.KeyID, p.Server = n.keyID, true
	var err error
	n.key, err = datakey.New(&material, p)
	c.newest, c.started = n, true
	for id, old := range c.negs { // this one and the one before
		if old != nil && old != n && id != int(previous(n.keyID)) && !(n.keyID == 1 && id == 0) {
			old.pipe.Fail(net.ErrClosed)
			c.negs[id] = nil
		}
	}
	return err
}

func previous(keyID uint8) uint8 {
	if keyID <= 1 {
		return 7
	}
	return keyID - 1
}

// dataLocked answers echo requests.
func (s *Server) dataLocked(keyID uint8, packet []byte, send func([]byte)) {
	c := s.session
	if c == nil || c.negs[keyID] == nil || c.negs[keyID].key == nil {
		return
	}
	plain, err := c.negs[keyID].key.Open(packet)
	if err != nil {
		return
	}
	c.send = send
	if len(plain) < 28 || plain[0] != 0x45 || plain[9] != 1 || plain[20] != 8 {
		return
	}
	reply := append([]byte(nil), plain...)
	copy(reply[12:16], plain[16:20])
	copy(reply[16:20], plain[12:16])
	reply[20] = 0
	s.sendLocked(reply)
}

func (s *Server) sendLocked(plain []byte) {
	n := s.sendingLocked()
	if n == nil {
		return
	}
	buf := append(make([]byte, n.key.Head(), n.key.Head()+len(plain)+datakey.Tail), plain...)
	sealed, err := n.key.Seal(buf)
	if err != nil {
		s.t.Errorf("seal: %v", err)
		return
	}
	s.session.send(sealed)
}

// sendingLocked is the newest negotiation that the client is known to have finished.
func (s *Server) sendingLocked() *negotiation {
	c := s.session
	if c == nil || c.newest == nil {
		return nil
	}
	if n := c.newest; n.key != nil && n.stream.Waiting() == 0 {
		return n
	}
	if n := c.negs[previous(c.newest.keyID)]; n != nil && n.key != nil {
		return n
	}
	if n := c.negs[0]; n != nil && n.key != nil {
		return n
	}
	return nil
}

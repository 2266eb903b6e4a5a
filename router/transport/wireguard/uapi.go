package wireguard

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// PeerStatus is the state of a peer at one moment.
type PeerStatus struct {
	Name          string
	PublicKey     PublicKey
	Endpoint      netip.AddrPort // where it last sent from, or where we call it; invalid: unknown
	LastHandshake time.Time      // zero: never
	RxBytes       uint64         // encrypted and authenticated, since the peer was added
	TxBytes       uint64         // encrypted, since the peer was added
}

// readStatus returns the local port and the peers of a device, in no order. The device has no getters for its counters,
// only its text form (https://www.wireguard.com/xplatform/#configuration-protocol).
func readStatus(dev *device.Device) (port uint16, peers []PeerStatus, err error) {
	var text bytes.Buffer
	if err := dev.IpcGetOperation(&text); err != nil {
		return 0, nil, fmt.Errorf("read device: %w", err)
	}
	var peer *PeerStatus
	var sec, nsec int64
	for line := range bytes.SplitSeq(text.Bytes(), []byte{'\n'}) {
		name, value, _ := bytes.Cut(line, []byte{'='})
		switch string(name) {
		case "listen_port":
			n, _ := strconv.ParseUint(string(value), 10, 16)
			port = uint16(n)
		case "public_key":
			peers = append(peers, PeerStatus{})
			peer = &peers[len(peers)-1]
			hex.Decode(peer.PublicKey[:], value)
		case "endpoint":
			peer.Endpoint, _ = netip.ParseAddrPort(string(value))
		case "last_handshake_time_sec":
			sec, _ = strconv.ParseInt(string(value), 10, 64)
		case "last_handshake_time_nsec":
			nsec, _ = strconv.ParseInt(string(value), 10, 64)
			if sec != 0 || nsec != 0 {
				peer.LastHandshake = time.Unix(sec, nsec)
			}
		case "rx_bytes":
			peer.RxBytes, _ = strconv.ParseUint(string(value), 10, 64)
		case "tx_bytes":
			peer.TxBytes, _ = strconv.ParseUint(string(value), 10, 64)
		}
	}
	return port, peers, nil
}

// script is a change to a device, in its text form.
type script struct{ strings.Builder }

func (s *script) set(key string, value any) { fmt.Fprintf(s, "%s=%v\n", key, value) }

// selectPeer makes the following lines about the peer. The device adds it if it does not have it.
func (s *script) selectPeer(k PublicKey) { s.set("public_key", hex.EncodeToString(k[:])) }

func (s *script) remove(k PublicKey) {
	s.selectPeer(k)
	s.set("remove", true)
}

// change turns the peer old into the peer new. A zero old means that the device does not have the peer yet. What is the
// same in both is left alone, and so is the session. The endpoint is left to whoever calls the peer.
func (s *script) change(old, new Peer) {
	same := old.PresharedKey == new.PresharedKey && old.PersistentKeepalive == new.PersistentKeepalive &&
		slices.Equal(old.AllowedIPs, new.AllowedIPs)
	if old.PublicKey == new.PublicKey && same {
		return
	}
	s.selectPeer(new.PublicKey)
	if old.PresharedKey != new.PresharedKey {
		s.set("preshared_key", new.PresharedKey.hex())
	}
	if old.PersistentKeepalive != new.PersistentKeepalive {
		s.set("persistent_keepalive_interval", int(new.PersistentKeepalive/time.Second))
	}
	if !slices.Equal(old.AllowedIPs, new.AllowedIPs) {
		s.set("replace_allowed_ips", true)
		for _, prefix := range new.AllowedIPs {
			s.set("allowed_ip", prefix.Masked())
		}
	}
}

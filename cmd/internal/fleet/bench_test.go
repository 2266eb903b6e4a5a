package fleet

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/store"
	"penstock/router/transport/wireguard"
)

// benchSessions is how many sessions a site has in the benchmarks.
const benchSessions = 10_000

// stranger is the key of a peer of a large fleet.
func stranger(i int) (peer wireguard.PublicKey) {
	binary.BigEndian.PutUint64(peer[:], uint64(i))
	return peer
}

// strangerAt is where that peer is.
func strangerAt(i int) netip.AddrPort {
	var address [4]byte
	binary.BigEndian.PutUint32(address[:], 0x64000000|uint32(i)&0x3fffff) // 100.64.0.0/10 and some
	return netip.AddrPortFrom(netip.AddrFrom4(address), 7000)
}

// still is a gateway's port whose peers do nothing.
type still []wireguard.PeerStatus

func (s still) Peers() []wireguard.PeerStatus                        { return s }
func (still) Call(context.Context, []wireguard.PeerStatus) error     { return nil }
func (still) Forget([]wireguard.PublicKey, bool) error               { return nil }
func (still) Idle(peers []wireguard.PublicKey) []wireguard.PublicKey { return peers }
func (still) Fit() error                                             { return nil }
func (still) Draining() bool                                         { return false }

// gatewayName is the name of a gateway of a large site.
func gatewayName(i int) string { return "g" + strconv.Itoa(i) }

// benchNode returns a node of a site of ten gateways that has heard of all, and does not run.
func benchNode(b *testing.B, g Gateway) *Node {
	b.Helper()
	cfg := &config.Config{Fleet: &config.Fleet{Site: "lab", Gateway: gatewayName(0), Folder: b.TempDir()}, Site: &config.Site{Name: "lab"}}
	for i := range 10 {
		cfg.Site.Gateways = append(cfg.Site.Gateways, config.SiteGateway{Name: gatewayName(i)})
	}
	n, err := New(b.Context(), Config{
		Live: func() *config.Config { return cfg }, Store: &link{engine: newEngine()}, Gateway: g, Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	n.beaten = time.Now().Add(time.Hour) // it stays connected
	n.board.watching(store.State, true)
	n.board.watching(store.Sessions, true)
	for i := 1; i < 10; i++ {
		n.board.state(store.Entry{Key: "lab." + gatewayName(i), Value: []byte(`{"state":"serving"}`)})
		n.board.gateways[gatewayName(i)].heard = time.Now().Add(time.Hour)
	}
	return n
}

// BenchmarkLook is one look of a node, four of which it makes each second.
func BenchmarkLook(b *testing.B) {
	for _, row := range []struct {
		name string
		gone bool
	}{{"all gateways live", false}, {"one with all sessions is gone", true}} {
		b.Run(row.name, func(b *testing.B) {
			n := benchNode(b, still(nil))
			for i := range benchSessions {
				at := gatewayName(1 + i%9)
				if row.gone {
					at = gatewayName(1)
				}
				n.board.block(store.Entry{Key: blockKey("lab", at, "x"), Value: blockWith(stranger(i), record{Endpoint: strangerAt(i), Age: time.Second})}, n.isMember)
			}
			if row.gone {
				n.board.gateways[gatewayName(1)].heard = time.Now().Add(-time.Hour)
			}
			n.look(b.Context()) // it takes what is ours
			b.ReportAllocs()
			for b.Loop() {
				n.look(b.Context())
			}
		})
	}
}

// BenchmarkPublish is what a gateway with many sessions does each second, if none has changed.
func BenchmarkPublish(b *testing.B) {
	g := make(still, benchSessions)
	for i := range g {
		g[i] = wireguard.PeerStatus{PublicKey: stranger(i), Endpoint: strangerAt(i), LastHandshake: time.Now().Add(time.Hour)}
	}
	n := benchNode(b, g)
	n.publish()
	b.ReportAllocs()
	for b.Loop() {
		n.publish()
	}
}

// BenchmarkSighted is a block of another gateway with the sessions of a second, of 1,000 peers, as the store tells it.
func BenchmarkSighted(b *testing.B) {
	n := benchNode(b, still(nil))
	const inBlock = 8
	entries := make([]store.Entry, benchSessions/inBlock)
	for i := range entries {
		block := []byte{blockFormat}
		for j := range inBlock {
			block = appendRecord(block, stranger(inBlock*i+j), record{Endpoint: strangerAt(i), Age: time.Second})
		}
		entries[i] = store.Entry{Key: blockKey("lab", gatewayName(1+i%9), "x"), Value: block}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		n.sighted(entries[i%len(entries)])
		i++
	}
}

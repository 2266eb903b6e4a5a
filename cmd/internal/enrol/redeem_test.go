package enrol

import (
	"encoding/base64"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"penstock/cmd/internal/control"
	"penstock/router/transport/wireguard"
)

func newKeyPair() (wireguard.PrivateKey, wireguard.PublicKey) {
	k := wireguard.GeneratePrivateKey()
	return k, k.Public()
}

func TestOfAThousandWhoRedeemOneBecomesThePeer(t *testing.T) {
	w := newWorld(t).open(t)
	link := w.invite(t, "ana")
	var won atomic.Pointer[wireguard.PublicKey]
	var used atomic.Int32
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range 1000 {
		wg.Go(func() {
			_, key := newKeyPair()
			<-start
			_, _, no := w.redeem(t.Context(), link.Token, key)
			switch {
			case no == nil && !won.CompareAndSwap(nil, &key):
				t.Error("a second one succeeded")
			case no != nil && no.why == isUsed:
				used.Add(1)
			case no != nil:
				t.Errorf("got %+v", no)
			}
		})
	}
	close(start)
	wg.Wait()
	peers := w.Config().Peers.Slice()
	if used.Load() != 999 || len(peers) != 1 || len(w.files(t)) != 1 || won.Load() == nil || peers[0].PublicKey != won.Load().String() {
		t.Errorf("%d were late, and there are the peers %+v, want 999 and the one who succeeded", used.Load(), peers)
	}
}

func TestWhoJoinsAtOnceHasAnAddressOfItsOwn(t *testing.T) {
	w := newWorld(t).open(t)
	names := []string{"a", "b", "c", "d", "e", "f"}
	var links []Link
	for _, name := range names {
		links = append(links, w.invite(t, name))
	}
	var wg sync.WaitGroup
	for _, l := range links {
		wg.Go(func() {
			_, key := newKeyPair()
			if _, _, no := w.redeem(t.Context(), l.Token, key); no != nil {
				t.Errorf("got %+v", no)
			}
		})
	}
	wg.Wait()
	var addresses []string
	for _, p := range w.Config().Peers.All() {
		addresses = append(addresses, p.AllowedIPs[0].String())
		if !slices.Equal(p.Groups, []string{"staff"}) {
			t.Errorf("%s: got groups %v, want those of the invitation", p.Name, p.Groups)
		}
	}
	slices.Sort(addresses)
	if len(slices.Compact(addresses)) != len(names) {
		t.Errorf("got %v, want %d addresses", addresses, len(names))
	}
}

func TestWhoIsRefusedAfterTheTokenMayTryAgain(t *testing.T) {
	_, key := newKeyPair()
	tests := []struct {
		name  string
		spoil func(t *testing.T, w *world) (mend func())
		key   string
		want  reason
	}{
		{"the gateway's own key", nil, gatewayPublic, isClash},
		{"the key of a peer", func(t *testing.T, w *world) func() {
			w.write(t, "peers.d/ben.yaml", "peers: [{name: ben, public_key: "+key.String()+", allowed_ips: 10.78.0.9/32}]\n")
			return func() {
				if err := os.Remove(w.dir + "/peers.d/ben.yaml"); err != nil {
					t.Fatal(err)
				}
			}
		}, "", isClash},
		{"a peer of the name", func(t *testing.T, w *world) func() {
			_, other := newKeyPair()
			w.write(t, "peers.d/ana2.yaml", "peers: [{name: ana, public_key: "+other.String()+", allowed_ips: 10.78.0.9/32}]\n")
			return func() {
				if err := os.Remove(w.dir + "/peers.d/ana2.yaml"); err != nil {
					t.Fatal(err)
				}
			}
		}, "", isClash},
		{"a file of the name", func(t *testing.T, w *world) func() {
			w.write(t, "peers.d/ana.yaml", "peers: [")
			return func() {
				if err := os.Remove(w.dir + "/peers.d/ana.yaml"); err != nil {
					t.Fatal(err)
				}
			}
		}, "", isFailed},
		{"a gateway that does not take it", func(_ *testing.T, w *world) func() {
			w.refuses.Store(true)
			return func() { w.refuses.Store(false) }
		}, "", isFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t).open(t)
			link := w.invite(t, "ana")
			before := w.files(t)
			mend := func() {}
			if tt.spoil != nil {
				mend = tt.spoil(t, w)
			}
			use := key
			if tt.key != "" {
				if err := use.UnmarshalText([]byte(tt.key)); err != nil {
					t.Fatal(err)
				}
			}
			if _, file, no := w.redeem(t.Context(), link.Token, use); no == nil || no.why != tt.want || file != nil {
				t.Fatalf("got %+v, want %s", no, tt.want)
			}
			mend()
			if got := w.files(t); !slices.Equal(got, before) {
				t.Errorf("got the files %v, want those before, %v", got, before)
			}
			if _, _, no := w.redeem(t.Context(), link.Token, key); no != nil {
				t.Errorf("once that is mended: got %+v", no)
			}
		})
	}
}

func TestAnEditThatWaitsForAReloadStopsNobody(t *testing.T) {
	w := newWorld(t).open(t)
	w.write(t, "gateway.yaml", gatewayText+"rulse: [")
	link := w.invite(t, "ana")
	_, key := newKeyPair()
	if _, _, no := w.redeem(t.Context(), link.Token, key); no != nil {
		t.Errorf("got %+v", no)
	}
}

func TestInviteSaysWhyNobodyCouldJoin(t *testing.T) {
	w := newWorld(t).open(t)
	w.invite(t, "taken")
	for name, row := range map[string]struct {
		q    control.InviteQuery
		want string
	}{
		"no name":                {control.InviteQuery{Name: "a b"}, "choose another"},
		"a flag":                 {control.InviteQuery{Name: "--"}, "choose another"},
		"no group":               {control.InviteQuery{Name: "ana", Groups: []string{""}}, "a group"},
		"invited already":        {control.InviteQuery{Name: "taken"}, "penstock peer uninvite taken"},
		"open for too short":     {control.InviteQuery{Name: "ana", For: time.Millisecond}, "for one second to 30 days, and not for "},
		"open for too long":      {control.InviteQuery{Name: "ana", For: 31 * 24 * time.Hour}, "for one second to 30 days, and not for "},
		"access that is over":    {control.InviteQuery{Name: "ana", Expires: time.Now().Add(-time.Hour)}, "would have ended"},
		"an endpoint that is no": {control.InviteQuery{Name: "ana", Endpoint: "gw.example"}, "has no port"},
	} {
		if made, err := w.Invite(t.Context(), row.q); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %+v, %v, want %q", name, made, err, row.want)
		}
	}
	if _, err := w.Invite(t.Context(), control.InviteQuery{Name: "autumn", For: 30*24*time.Hour + time.Hour}); err != nil {
		t.Errorf("30 days of a calendar: %v", err)
	}
	made, err := w.Invite(t.Context(), control.InviteQuery{Name: "brief", Expires: time.Now().Add(time.Hour)})
	if err != nil || made.Until.After(time.Now().Add(time.Hour)) {
		t.Errorf("got %+v, %v, want a link that ends with the access", made, err)
	}
	_, key := newKeyPair()
	if _, _, no := w.redeem(t.Context(), w.invite(t, "cleo").Token, key); no != nil {
		t.Fatal(no)
	}
	if _, err := w.Invite(t.Context(), control.InviteQuery{Name: "cleo"}); err == nil || !strings.Contains(err.Error(), `there is a peer "cleo" already`) {
		t.Errorf("a peer: got %v", err)
	}
	off, err := Open(t.Context(), Config{Gateway: w})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := off.Invite(t.Context(), control.InviteQuery{Name: "ana"}); err == nil || !strings.Contains(err.Error(), "listen: {enrol:") {
		t.Errorf("without listen.enrol: got %v", err)
	}
}

func TestNamesOfInvitedPeersAreThoseOfHosts(t *testing.T) {
	w := newWorld(t)
	w.write(t, "gateway.yaml", gatewayText+"dns: {peers: vpn.example}\n")
	next, err := w.Config().Reload()
	if err != nil {
		t.Fatal(err)
	}
	next.Listen.Enrol.Address = "127.0.0.1:0"
	w.current.Store(next)
	w.open(t)
	if _, err := w.Invite(t.Context(), control.InviteQuery{Name: "Gateway"}); err == nil || !strings.Contains(err.Error(), "gateway.vpn.example: choose another name") {
		t.Errorf("the gateway's own name: got %v", err)
	}
	first, second := w.invite(t, "ana"), w.invite(t, "Ana") // whichever is used first
	_, key := newKeyPair()
	if _, _, no := w.redeem(t.Context(), first.Token, key); no != nil {
		t.Fatalf("got %+v", no)
	}
	if _, err := w.Invite(t.Context(), control.InviteQuery{Name: "ANA"}); err == nil || !strings.Contains(err.Error(), `there is a peer "ana" already`) {
		t.Errorf("in capitals: got %v", err)
	}
	_, other := newKeyPair()
	if _, _, no := w.redeem(t.Context(), second.Token, other); no == nil || no.why != isClash {
		t.Errorf("the name by now of another: got %+v, want %s", no, isClash)
	}
}

func TestKeysThatAreNone(t *testing.T) {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	text := func(n *big.Int) string {
		b := n.FillBytes(make([]byte, 32))
		slices.Reverse(b)
		return base64.StdEncoding.EncodeToString(b)
	}
	number := func(s string) *big.Int {
		n, ok := new(big.Int).SetString(s, 10)
		if !ok {
			t.Fatal(s)
		}
		return n
	}
	high := func(k wireguard.PublicKey) string { k[31] |= 0x80; return k.String() }
	_, good := newKeyPair()
	for name, key := range map[string]string{
		"nothing": "", "zero": text(big.NewInt(0)), "hexadecimal": strings.Repeat("00", 32), "a line feed": good.String() + "\n",
		"order 4": text(big.NewInt(1)), "order 2": text(new(big.Int).Sub(p, big.NewInt(1))),
		// The points of order 8 (https://cr.yp.to/ecdh.html).
		"order 8":         text(number("325606250916557431795983626356110631294008115727848805560023387167927233504")),
		"order 8, again":  text(number("39382357235489614581723060781553021112529911719440698176882885853963445705823")),
		"p":               text(p),
		"p + 1":           text(new(big.Int).Add(p, big.NewInt(1))),
		"2^255 - 1":       text(new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(1))),
		"a 256th bit set": high(good),
	} {
		if _, err := checkKey(key); err == nil {
			t.Errorf("%s: %q is taken for a key", name, key)
		}
	}
	if got, err := checkKey(good.String()); err != nil || got != good {
		t.Errorf("a good key: got %v, %v", got, err)
	}
}

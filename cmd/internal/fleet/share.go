package fleet

import (
	"crypto/sha256"
	"encoding/binary"

	"penstock/router/transport/wireguard"
)

// taker returns which of the gateways takes a peer: each peer has its own order of them (rendezvous hashing), so all gateways agree
// without asking, and the peers of one that is gone spread over all that are left. It returns "" if there are none.
func taker(peer wireguard.PublicKey, gateways []string) string {
	best, most := "", uint64(0)
	var room [128]byte // a name has 63 bytes at most
	both := append(room[:0], peer[:]...)
	for _, name := range gateways {
		sum := sha256.Sum256(append(both, name...))
		if weight := binary.BigEndian.Uint64(sum[:]); best == "" || weight > most {
			best, most = name, weight
		}
	}
	return best
}

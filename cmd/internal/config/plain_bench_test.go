package config

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkPeers reads 10,000 peers, one in each line, in both ways.
func BenchmarkPeers(b *testing.B) {
	var text strings.Builder
	text.WriteString("peers:\n")
	for i := range 10_000 {
		fmt.Fprintf(&text, "  - {name: p%d, public_key: \"%s\", allowed_ips: [10.77.%d.%d/32], groups: [staff]}\n", i, testKey(byte(i)), i>>8, i&255)
	}
	for name, decode := range map[string]func(*decoder){
		"plain": func(d *decoder) { decodePlain(d, d.config.Path) },
		"YAML":  func(d *decoder) { decodeYAML(d, d.config.Path, []byte(text.String())) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d := newDecoder("/etc/penstock/peers.yaml")
				d.config.texts[d.config.Path] = text.String()
				if decode(d); d.config.Peers.Len() != 10_000 {
					b.Fatalf("got %d peers", d.config.Peers.Len())
				}
			}
		})
	}
}

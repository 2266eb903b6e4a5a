package blocklist

import (
	"strings"
)

// syllables and endings make names like those in real lists: about 17 bytes, most under .com, a third with an extra label.
var (
	syllables = strings.Fields("ba be bi bo ca ce co da de di do fa fe fi ga go ha he hi ka ki ko la le li lo ma me mi mo na ne " +
		"ni no pa pe pi po ra re ri ro sa se si so ta te ti to va ve vi wa xe yo za zo bet cas win sex ads trk app net web")
	endings = strings.Fields("com com com com com com net org info ru xyz top online de co.uk com.br site io")
)

// generatedName returns the i-th generated name. All are distinct.
func generatedName(i int) string {
	x := uint64(i)*0x9e3779b97f4a7c15 + 0x7f4a7c15
	x ^= x >> 29
	var b strings.Builder
	if x%3 == 0 {
		b.WriteString([]string{"www.", "ads.", "m.", "track."}[x>>8%4])
	}
	for n := i; ; n /= len(syllables) {
		b.WriteString(syllables[n%len(syllables)])
		if n < len(syllables) {
			break
		}
	}
	b.WriteString([]string{"", "-", "x", "24"}[x>>16%4])
	b.WriteString(syllables[x>>24%uint64(len(syllables))])
	b.WriteString(syllables[x>>32%uint64(len(syllables))])
	b.WriteByte('0' + byte(i%10))
	b.WriteByte('.')
	b.WriteString(endings[x>>40%uint64(len(endings))])
	return b.String()
}

// nameList returns generated names as a list file.
func nameList(from, n int) []byte {
	list := make([]byte, 0, 20*n)
	for i := range n {
		list = append(list, generatedName(from+i)...)
		list = append(list, '\n')
	}
	return list
}

// wireName returns a name in DNS wire format.
func wireName(host string) []byte {
	var wire []byte
	for label := range strings.SplitSeq(host, ".") {
		wire = append(wire, byte(len(label)))
		wire = append(wire, label...)
	}
	return append(wire, 0)
}

package transit

import (
	"bytes"
	"encoding/binary"
	"testing"

	"penstock/stack/link"
)

// A server must hear the bytes that were read, and no others.

func TestNothingIsUrgentWhileTheClientIsRead(t *testing.T) {
	const text = "Host: goXod.example\r\n"
	for _, c := range families {
		for _, reading := range []bool{true, false} {
			for _, flags := range []byte{flagACK, flagACK | flagURG} {
				for kind, size := range map[string]int{"finished": -1, "partial": 0, "super-packet": 10} {
					w := newTrack(t, c, reading).open()
					s := w.up(1, serverISN+1, flags, []byte(text)...)
					s.urgent = 9
					m, b := link.Meta{}, s.bytes()
					if size >= 0 {
						m, b = s.unfinished(size)
					}
					p := parsed(t, m, b)
					if w.FromClient(m, p, 0) == Stay {
						w.Permit(len(text))
						m, p.Raw = w.toServer[0].m, w.toServer[0].b
					}
					var heard []byte
					for _, got := range finished(t, m, p.Raw) {
						if isUrgent := got.Body[atFlags]&flagURG != 0 || binary.BigEndian.Uint16(got.Body[atUrgent:]) != 0; isUrgent == reading {
							t.Errorf("%v, read %v, %s, flags %x: urgent is %v", c.Client, reading, kind, flags, isUrgent)
						}
						heard = append(heard, got.Body[20:]...)
					}
					if string(heard) != text {
						t.Errorf("%v, %s: the server heard %q, want %q", c.Client, kind, heard, text)
					}
				}
			}
		}
	}
}

func TestAReadClientOffersNoOptionThatLeadsAround(t *testing.T) {
	known := []byte{2, 4, 5, 0x50, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7} // MSS, SACK, timestamps, window scale
	with := func(o ...byte) []byte { return append(bytes.Clone(known), o...) }
	for _, row := range []struct {
		name string
		sent []byte
		want []byte // of a flow that is read

	}{
		{"the usual ones", known, known},
		{"MPTCP's", with(30, 4, 1, 0), with(1, 1, 1, 1)},
		{"a fast open cookie", with(34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1), with(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)},
		{"one behind the end", with(0, 30, 4, 1, 0, 0, 0, 0), with(0, 30, 4, 1, 0, 0, 0, 0)},
		{"one that is cut off", with(30, 12, 1, 0), with(30, 12, 1, 0)},
	} {
		for _, c := range families {
			for _, reading := range []bool{true, false} {
				w := newTrack(t, c, reading)
				s := w.up(0, 0, flagSYN)
				s.opts = row.sent
				want := row.sent
				if reading {
					want = row.want
				}
				for range 2 {
					if got := w.want(row.name, Cross, s); !bytes.Equal(got.Body[20:], want) {
						t.Errorf("%s, %v, read %v: got options %x, want %x", row.name, c.Client, reading, got.Body[20:], want)
					}
				}
			}
		}
	}
}

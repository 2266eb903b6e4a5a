package wire

import (
	"encoding/binary"
	"strings"
	"testing"
)

// TestFramesThatEndEarly are errors, whatever the length says.
func TestFramesThatEndEarly(t *testing.T) {
	frame := binary.BigEndian.AppendUint16(nil, 12)
	for _, body := range []string{"", "short"} {
		if _, err := ReadFrame(strings.NewReader(string(frame)+body), nil); err == nil {
			t.Errorf("a frame of 12 octets with %d: got no error", len(body))
		}
	}
}

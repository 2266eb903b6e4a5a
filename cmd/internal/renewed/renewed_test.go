package renewed

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestTheFormerCertificateStays(t *testing.T) {
	var c Certificate
	var log strings.Builder
	var err error
	loads, name := 0, byte('a')
	get := func(of string) string {
		t.Helper()
		got, err := c.Get(of, func() (tls.Certificate, error) {
			loads++
			return tls.Certificate{Certificate: [][]byte{{name}}}, err
		}, slog.New(slog.NewTextHandler(&log, nil)), "the test")
		if err != nil {
			return err.Error()
		}
		return string(got.Certificate[0])
	}
	for _, step := range []struct {
		what, of string
		name     byte
		err      error
		late     bool
		want     string
		loads    int
	}{
		{"there is none yet", "one", 'a', errors.New("half a file"), false, "half a file", 1},
		{"a handshake soon after", "one", 'a', nil, false, "half a file", 1},
		{"it is mended", "one", 'a', nil, true, "a", 2},
		{"it is renewed, and nobody has looked", "one", 'b', nil, false, "a", 2},
		{"somebody looks", "one", 'b', nil, true, "b", 3},
		{"the files are broken", "one", 'c', errors.New("broken"), true, "b", 4},
		{"they still are", "one", 'c', errors.New("broken"), true, "b", 5},
		{"a reload names others", "two", 'd', nil, false, "d", 6},
	} {
		name, err = step.name, step.err
		if step.late {
			c.looked = time.Time{}
		}
		if got := get(step.of); got != step.want || loads != step.loads {
			t.Errorf("%s: got %q after %d looks, want %q after %d", step.what, got, loads, step.want, step.loads)
		}
	}
	if n := strings.Count(log.String(), "broken"); n != 1 {
		t.Errorf("the error is logged %d times, want once:\n%s", n, log.String())
	}
}

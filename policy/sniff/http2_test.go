package sniff

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// client2 writes what an HTTP/2 client sends.
type client2 struct {
	bytes.Buffer
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
}

func newClient2(t testing.TB) *client2 {
	t.Helper()
	c := &client2{}
	c.WriteString(preface)
	c.framer = http2.NewFramer(c, nil)
	c.encoder = hpack.NewEncoder(&c.block)
	c.must(t, c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}))
	c.must(t, c.framer.WriteWindowUpdate(0, 1<<20))
	return c
}

func (c *client2) must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("write frame: %v", err)
	}
}

// fields compresses name, value pairs.
func (c *client2) fields(t testing.TB, pairs ...string) []byte {
	t.Helper()
	c.block.Reset()
	for pair := range slices.Chunk(pairs, 2) {
		c.must(t, c.encoder.WriteField(hpack.HeaderField{Name: pair[0], Value: pair[1]}))
	}
	return c.block.Bytes()
}

func (c *client2) headers(t testing.TB, stream uint32, pairs ...string) {
	t.Helper()
	c.must(t, c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: c.fields(t, pairs...), EndHeaders: true,
	}))
}

func TestHTTP2WithPriorKnowledge(t *testing.T) {
	for _, tt := range []struct {
		name  string
		write func(c *client2)
		want  Result
	}{
		{"an authority", func(c *client2) { c.headers(t, 1, ":method", "GET", ":authority", "X.bet:80", ":path", "/") },
			Result{Status: Found, Protocol: HTTP2, Host: hostOf(t, "x.bet")}},
		{"a host only", func(c *client2) { c.headers(t, 1, ":method", "GET", "host", "x.bet") },
			Result{Status: Found, Protocol: HTTP2, Host: hostOf(t, "x.bet")}},
		{"two that differ", func(c *client2) { c.headers(t, 1, ":method", "GET", ":authority", "x.bet", "host", "good.example") },
			Result{Status: Found, Protocol: HTTP2, Host: hostOf(t, "x.bet"), Other: hostOf(t, "good.example")}},
		{"an address", func(c *client2) { c.headers(t, 1, ":method", "GET", ":authority", "192.0.2.1") },
			Result{Status: NoName, Protocol: HTTP2}},
		{"none", func(c *client2) { c.headers(t, 1, ":method", "GET") }, Result{Status: NoName, Protocol: HTTP2}},
		{"padded, with priority, in fragments", func(c *client2) {
			block := c.fields(t, ":method", "GET", ":authority", "x.bet", "cookie", strings.Repeat("a", 100))
			c.must(t, c.framer.WriteHeaders(http2.HeadersFrameParam{
				StreamID: 1, BlockFragment: block[:7], PadLength: 9, Priority: http2.PriorityParam{Weight: 3},
			}))
			c.must(t, c.framer.WriteContinuation(1, false, block[7:9]))
			c.must(t, c.framer.WriteContinuation(1, true, block[9:]))
		}, Result{Status: Found, Protocol: HTTP2, Host: hostOf(t, "x.bet")}},
		{"two authorities", func(c *client2) {
			c.headers(t, 1, ":method", "GET", ":authority", "good.example", ":authority", "x.bet")
		}, ambiguous(HTTP2)},
		{"an authority that is no host", func(c *client2) { c.headers(t, 1, ":method", "GET", ":authority", "a@x.bet") }, ambiguous(HTTP2)},
		{"another frame inside a block", func(c *client2) {
			c.must(t, c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(t, ":method", "GET")}))
			c.must(t, c.framer.WritePing(false, [8]byte{}))
		}, ambiguous(HTTP2)},
		{"a continuation of nothing", func(c *client2) { c.must(t, c.framer.WriteContinuation(1, true, nil)) }, ambiguous(HTTP2)},
		{"a broken block", func(c *client2) {
			c.must(t, c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff}, EndHeaders: true}))
		}, ambiguous(HTTP2)},
		{"padding longer than the frame", func(c *client2) {
			c.must(t, c.framer.WriteRawFrame(http2.FrameHeaders, flagPadded|flagEndHeaders, 1, []byte{9}))
		}, ambiguous(HTTP2)},
		{"a block beyond the bound", func(c *client2) {
			c.must(t, c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, MaxBytes), EndHeaders: true}))
		}, ambiguous(HTTP2)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient2(t)
			c.framer.AllowIllegalWrites = true
			tt.write(c)
			step := 1 + c.Len()>>10
			if got := cuts(t, c.Bytes(), step); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestEveryStreamOfAnHTTP2ConnectionIsSeen(t *testing.T) {
	c := newClient2(t)
	c.headers(t, 1, ":method", "POST", ":authority", "a.example")
	c.must(t, c.framer.WriteData(1, false, bytes.Repeat([]byte("GET "), 1000)))
	c.headers(t, 1, "sum", "1") // trailers
	c.headers(t, 3, ":method", "GET", ":authority", "x.bet", "user-agent", "me")
	c.headers(t, 5, ":method", "GET", ":authority", "a.example", "user-agent", "me") // from the table
	c.headers(t, 7, ":method", "GET", ":authority", "x.bet", "user-agent", "me")
	stream := c.Bytes()

	want := scan(t, stream, whole)
	var got []string
	for _, e := range want {
		got = append(got, e.host)
	}
	if !slices.Equal(got, []string{"a.example", "x.bet", "a.example", "x.bet"}) {
		t.Fatalf("got hosts %q", got)
	}
	for n := 1; n < 100; n++ {
		if got := scan(t, stream, inParts(n)); !slices.Equal(got, want) {
			t.Fatalf("in parts of %d bytes: got %+v, want %+v", n, got, want)
		}
	}
	// An upgrade to unencrypted HTTP/2 starts again with the preface.
	upgrade := lines("GET / HTTP/1.1", "Host: b.example", "Upgrade: h2c", "Connection: Upgrade")
	if got := scan(t, append([]byte(upgrade), stream...), bytewise); len(got) != 5 || got[0].host != "b.example" || got[2].host != "x.bet" {
		t.Errorf("behind an upgrade: got %+v", got)
	}
}

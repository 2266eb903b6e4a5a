//go:build !unix

package blocklist

// outside returns n zero bytes.
func outside(n int) (b []byte, free func()) { return make([]byte, n), nil }

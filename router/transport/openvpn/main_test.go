package openvpn

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// The tests run in user and network namespaces of their own where the system allows it: the real server of the interop
// tests needs a TUN device, and nothing here has business with the host's network.
func TestMain(m *testing.M) {
	if code, done := runInNamespace(); done {
		os.Exit(code)
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "16") // the rows wait, they do not work
	goleak.VerifyTestMain(m)
}

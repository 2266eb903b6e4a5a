package e2e

import (
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// TestReadyMeansThatTheRoutesLeadToPenstock asks a laptop that starts whether it is ready, all the time. Its tunnel is connected before its
// host is configured.
func TestReadyMeansThatTheRoutesLeadToPenstock(t *testing.T) {
	t.Parallel()
	ip := program(t, "ip")
	w := newWorld(t)
	w.up(t)
	for range 5 {
		w.laptop.stop(t, syscall.SIGTERM)
		route := make(chan string, 1)
		w.laptop.manage = func(*exec.Cmd) {
			go func() {
				client := w.Client(w.Laptop)
				for limit := time.Now().Add(patience); time.Now().Before(limit); time.Sleep(time.Millisecond) {
					res, err := client.Get("http://" + monitor + "/readyz")
					if err != nil {
						continue // it does not listen yet
					}
					res.Body.Close()
					if res.StatusCode == http.StatusOK {
						break
					}
				}
				out, _ := w.Laptop.Command(t.Context(), ip, "route", "get", netlab.IntranetIPv4).CombinedOutput()
				route <- string(out)
			}()
		}
		w.laptop.start(t)
		if got := <-route; !strings.Contains(got, "dev pen0") {
			t.Errorf("ready, and the way to the intranet is %q, want it to lead to pen0", got)
		}
	}
	w.nothingInClear(t)
}

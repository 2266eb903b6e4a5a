package control

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serveText serves one answer to everything on a socket of its own, and returns the socket.
func serveText(t *testing.T, status int, text string) string {
	return serveAll(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, text)
	})
}

// serveAll serves everything on a socket of its own, and returns the socket.
func serveAll(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "control.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handle}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return socket
}

// TestAnswersThatAreNone has sockets of something else, or of a penstock of another version.
func TestAnswersThatAreNone(t *testing.T) {
	for _, row := range []struct {
		name   string
		status int
		text   string
		want   string
		is     error
	}{
		{"a web page", 200, "<html>", "control rules: the answer is not JSON: invalid character '<'", nil},
		{"nothing", 200, "", "control rules: the answer is not JSON", nil},
		{"half an answer", 200, `{"apiVersion":"penstock/v1","rules":[{"na`, "control rules: the answer is not JSON", nil},
		{"another version", 200, `{"apiVersion":"penstock/v2","rules":[]}`, `speaks "penstock/v2" and this command "penstock/v1": restart the daemon`, nil},
		{"no version", 200, `{"rules":[]}`, `speaks "" and this command`, nil},
		{"another type", 200, `{"apiVersion":"penstock/v1","rules":7}`, "control rules: the answer is not what was expected", nil},
		{"an error without words", 500, "", "control rules: answered with status 500", nil},
		{"an error of something else", 404, "404 page not found", "control rules: answered with status 404", nil},
		{"an error in words", 422, `{"apiVersion":"penstock/v1","error":"there is no flow f9"}`, "there is no flow f9", nil},
		{"no permission", 403, `{"error":"only root may"}`, "only root may", ErrNoPermission},
		{"not offered", 501, `{"error":"not here"}`, "not here", ErrNotOffered},
	} {
		t.Run(row.name, func(t *testing.T) {
			rules, err := dial(t, serveText(t, row.status, row.text)).Rules(t.Context())
			if err == nil || !strings.Contains(err.Error(), row.want) || row.is != nil && !errors.Is(err, row.is) {
				t.Errorf("got %+v, %v; want %q", rules, err, row.want)
			}
		})
	}
}

func TestAKeyThatIsNewerThanTheCommandIsPassedOver(t *testing.T) {
	socket := serveText(t, 200, `{"apiVersion":"penstock/v1","policyGeneration":3,"rules":[{"name":"rest","colour":"red"}],"weather":{}}`)
	rules, err := dial(t, socket).Rules(t.Context())
	if err != nil || rules.Generation != 3 || len(rules.Rules) != 1 || rules.Rules[0].Name != "rest" {
		t.Errorf("got %+v, %v; want the rule", rules, err)
	}
}

// timed counts the deadlines that are set for what is written to it.
type timed struct {
	*httptest.ResponseRecorder
	deadlines int
}

func (w *timed) SetWriteDeadline(time.Time) error {
	w.deadlines++
	return nil
}

// An answer has the time that the page gives it as a whole. Only events, which do not end, have some for each write.
func TestOnlyEventsHaveADeadlineForEachWrite(t *testing.T) {
	for name, paced := range map[string]bool{"application/json": false, "text/event-stream": true} {
		api := Forward(dial(t, serveAll(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", name)
			fmt.Fprint(w, "{}")
		})))
		w := &timed{ResponseRecorder: httptest.NewRecorder()}
		api.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "POST", "/v1/rules", nil))
		if w.Body.String() != "{}" || (w.deadlines > 0) != paced {
			t.Errorf("%s: got %q and %d deadlines; want some: %v", name, w.Body, w.deadlines, paced)
		}
	}
}

package signin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// findLimit is how long a gateway may take to say where its page is.
const findLimit = 5 * time.Second

// maxHere bounds what it says, bytes.
const maxHere = 4 << 10

// Dial opens a connection.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Find asks a gateway, by one of its addresses inside the tunnel, where its peers sign in. dial must lead through the tunnel. An
// error means that the gateway has no such page, or cannot be asked.
func Find(ctx context.Context, dial Dial, gateway netip.Addr) (here Here, err error) {
	client := &http.Client{
		Timeout:   findLimit,
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeader},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("there is no page for signing in")
		},
	}
	host := gateway.String()
	if gateway.Is6() {
		host = "[" + host + "]"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+WellKnown, nil)
	if err != nil {
		return here, err
	}
	res, err := client.Do(req)
	if err != nil {
		return here, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return here, fmt.Errorf("%s has no page for signing in: it answered %s", gateway, res.Status)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxHere)).Decode(&here); err != nil {
		return here, fmt.Errorf("%s has no page for signing in: %w", gateway, err)
	}
	if u, err := url.Parse(here.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return here, fmt.Errorf("%s says %q, which is no page", gateway, brief(here.URL))
	}
	return here, nil
}

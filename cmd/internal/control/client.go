package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"syscall"
	"time"
)

// host stands in the Host header of penstock's own requests.
const host = "penstock"

// maxAnswer bounds an answer, bytes: 16384 + 8192 flows of about half a KiB and room for what was finished.
const maxAnswer = 64 << 20

// ErrNotRunning says that nobody serves the control socket.
var ErrNotRunning = errors.New("penstock is not running")

// ErrNoPermission says that the caller may not open the socket, or may not change things through it.
var ErrNoPermission = errors.New("no permission")

// ErrNotOffered says that the running penstock cannot do what was asked.
var ErrNotOffered = errors.New("not offered")

// Client asks a running penstock. Its methods may be called concurrently.
type Client struct {
	socket string
	http   *http.Client
}

// Dial returns a client of the penstock behind socket. If that is empty, it is this user's own penstock or, if none runs,
// the system's. Dial fails with ErrNotRunning or ErrNoPermission, and connects once to tell them apart.
func Dial(ctx context.Context, socket string) (*Client, error) {
	if socket != "" {
		return connect(ctx, socket)
	}
	return dialFirst(ctx, DefaultSocket(), systemSocket)
}

// dialFirst tries the user's own socket and then the system's.
func dialFirst(ctx context.Context, own, system string) (*Client, error) {
	c, err := connect(ctx, own)
	if own == system || !errors.Is(err, ErrNotRunning) {
		return c, err
	}
	c, systemErr := connect(ctx, system)
	if errors.Is(systemErr, ErrNotRunning) {
		return nil, fmt.Errorf("%w: there is no penstock behind %s or %s; start it with: penstock run -c FILE, or name its socket with --socket", ErrNotRunning, own, system)
	}
	return c, systemErr
}

func connect(ctx context.Context, socket string) (*Client, error) {
	c := &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
		},
	}}}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, c.explain(err)
	}
	conn.Close()
	return c, nil
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// explain turns an error of the socket into one that says what to do.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: there is no control socket %s; start it with: penstock run -c FILE, or name its socket with --socket", ErrNotRunning, c.socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nobody listens on the control socket %s: the process that made it has died", ErrNotRunning, c.socket)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w to open the control socket %s: run this with sudo, as the user who started penstock, or as a member of the group in control.group", ErrNoPermission, c.socket)
	}
	return fmt.Errorf("control socket %s: %w", c.socket, err)
}

// Forward returns a handler that passes requests on to the penstock of a client, as this process: like API, but with the rights of the
// user who runs it. Nothing of who asks the handler is passed on.
func Forward(c *Client) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", host, host
			after := r.In.Header.Get("Last-Event-ID")
			r.Out.Header = http.Header{"Content-Type": {"application/json"}}
			if after != "" {
				r.Out.Header.Set("Last-Event-ID", after)
			}
		},
		Transport:     c.http.Transport,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			refuse(w, http.StatusBadGateway, c.explain(err).Error())
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { proxy.ServeHTTP(paced{w}, r) })
}

// paced gives the reader of events time for each write and not for the whole answer: they go on for as long as somebody follows them.
type paced struct{ http.ResponseWriter }

func (p paced) Write(b []byte) (int, error) {
	if p.Header().Get("Content-Type") == eventStream {
		http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(eventWait)) // not every writer has one
	}
	return p.ResponseWriter.Write(b)
}

func (p paced) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// Ask makes a call that has no method of its own. Name is its path behind /v1/, and Out the type that types.go or history.go has for
// its answer.
func Ask[Out any](ctx context.Context, c *Client, name string, in any) (Out, error) {
	return call[Out](ctx, c, name, in)
}

// call posts in and decodes the answer.
func call[Out any](ctx context.Context, c *Client, name string, in any) (Out, error) {
	var out Out
	body, err := json.Marshal(in)
	if err != nil {
		return out, fmt.Errorf("control %s: %w", name, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+host+"/v1/"+name, bytes.NewReader(body))
	if err != nil {
		return out, fmt.Errorf("control %s: %w", name, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return out, c.explain(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return out, fmt.Errorf("control %s: read the answer: %w", name, err)
	}
	if resp.StatusCode != http.StatusOK {
		return out, refusal(name, resp.StatusCode, data)
	}
	var version struct {
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return out, fmt.Errorf("control %s: the answer is not JSON: %w", name, err)
	}
	if version.APIVersion != APIVersion {
		return out, fmt.Errorf("the running penstock speaks %q and this command %q: restart the daemon, or use its own binary", version.APIVersion, APIVersion)
	}
	if err := json.Unmarshal(data, &out); err != nil {
		return out, fmt.Errorf("control %s: the answer is not what was expected: %w", name, err)
	}
	return out, nil
}

// refusal turns an answer with a status other than 200 into an error.
func refusal(name string, status int, data []byte) error {
	var f failure
	if err := json.Unmarshal(data, &f); err != nil || f.Error == "" {
		return fmt.Errorf("control %s: answered with status %d", name, status)
	}
	switch status {
	case http.StatusForbidden:
		return fmt.Errorf("%w: %s", ErrNoPermission, f.Error)
	case http.StatusNotImplemented:
		return fmt.Errorf("%w: %s", ErrNotOffered, f.Error)
	}
	return errors.New(f.Error)
}

// Status is what is true now.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, "status", struct{}{})
}

// Flows lists flows, oldest first.
func (c *Client) Flows(ctx context.Context, q FlowQuery) (Flows, error) {
	return call[Flows](ctx, c, "flows", q)
}

// KillFlow ends a live flow.
func (c *Client) KillFlow(ctx context.Context, id string) error {
	_, err := call[Done](ctx, c, "flows/kill", named{id})
	return err
}

// Explain says what would be done with a flow and why.
func (c *Client) Explain(ctx context.Context, q ExplainQuery) (Explanation, error) {
	return call[Explanation](ctx, c, "explain", q)
}

// Rules lists the rules with their use.
func (c *Client) Rules(ctx context.Context) (Rules, error) {
	return call[Rules](ctx, c, "rules", struct{}{})
}

// Reload reads the configuration again.
func (c *Client) Reload(ctx context.Context, q ReloadQuery) (Reloaded, error) {
	return call[Reloaded](ctx, c, "reload", q)
}

// Drain makes penstock say that it is not ready, or ready again.
func (c *Client) Drain(ctx context.Context, o DrainOrder) error {
	_, err := call[Done](ctx, c, "drain", o)
	return err
}

// Up connects transports and keeps them connected.
func (c *Client) Up(ctx context.Context, q Steer) error {
	_, err := call[Done](ctx, c, "up", q)
	return err
}

// Down disconnects transports. What rules send through them is refused.
func (c *Client) Down(ctx context.Context, q Steer) error {
	_, err := call[Done](ctx, c, "down", q)
	return err
}

// Reconnect replaces the sessions of transports.
func (c *Client) Reconnect(ctx context.Context, q Steer) error {
	_, err := call[Done](ctx, c, "reconnect", q)
	return err
}

// SignIns lists the pages for signing in behind the transports.
func (c *Client) SignIns(ctx context.Context, q Steer) (SignIns, error) {
	return call[SignIns](ctx, c, "sign-ins", q)
}

// DNSQuery asks the daemon's DNS server.
func (c *Client) DNSQuery(ctx context.Context, q DNSQuery) (DNSAnswer, error) {
	return call[DNSAnswer](ctx, c, "dns/query", q)
}

// DNSFlush empties the DNS cache.
func (c *Client) DNSFlush(ctx context.Context) error {
	_, err := call[Done](ctx, c, "dns/flush", struct{}{})
	return err
}

// Lists lists the lists of all categories in use.
func (c *Client) Lists(ctx context.Context) (Lists, error) {
	return call[Lists](ctx, c, "lists", struct{}{})
}

// ListLookup says which lists have a name.
func (c *Client) ListLookup(ctx context.Context, name string) (ListHits, error) {
	return call[ListHits](ctx, c, "lists/lookup", named{name})
}

// ListRefresh reads all lists again.
func (c *Client) ListRefresh(ctx context.Context) error {
	_, err := call[Done](ctx, c, "lists/refresh", struct{}{})
	return err
}

// PeerQuotaReset lets a peer use its quota of this month anew.
func (c *Client) PeerQuotaReset(ctx context.Context, name string) error {
	_, err := call[Done](ctx, c, "peers/quota/reset", named{name})
	return err
}

// SignOut ends the session of whoever has signed in with a peer.
func (c *Client) SignOut(ctx context.Context, peer string) error {
	_, err := call[Done](ctx, c, "peers/sign-out", named{peer})
	return err
}

// Peers lists the gateway's peers.
func (c *Client) Peers(ctx context.Context) (Peers, error) {
	return call[Peers](ctx, c, "peers", struct{}{})
}

// Invite makes an invitation to a gateway.
func (c *Client) Invite(ctx context.Context, q InviteQuery) (Invited, error) {
	return call[Invited](ctx, c, "invite", q)
}

// Invitations lists the invitations to a gateway.
func (c *Client) Invitations(ctx context.Context) (Invitations, error) {
	return call[Invitations](ctx, c, "invites", struct{}{})
}

// Uninvite takes back an invitation.
func (c *Client) Uninvite(ctx context.Context, name string) error {
	_, err := call[Done](ctx, c, "uninvite", named{name})
	return err
}

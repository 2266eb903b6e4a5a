package router

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"time"

	"penstock/policy"
	"penstock/policy/sniff"
)

// blockPageText is the page that plain HTTP shows in place of a refused site. Under TLS it would need a certificate for the
// site.
//
//go:embed blockpage.html
var blockPageText string

var blockPage = template.Must(template.New("block").Parse(blockPageText))

// maxDrain is how much of a request is read and discarded after the page is sent, in bytes. Closing earlier would reset the
// connection, and the client would lose the page.
const maxDrain = 64 << 10

// isExplainable reports whether the client of a refused flow can be shown a page: the flow goes to a port for plain HTTP, and a name
// was refused, or somebody has to sign in.
func (e *entry) isExplainable() bool {
	v := e.verdict()
	return v.Action == policy.Refuse && e.facts.network() == policy.TCP && (e.facts.isNamed() || v.SignIn != "") && showsPage(e.facts.dst.Port())
}

// showsPage reports whether clients that are refused on a port are shown the page.
func showsPage(port uint16) bool { return port == 80 || port == 8080 }

// refuseNamed answers a flow that was refused before it was read: with the page if it turns out to be HTTP, else with RST. If it would not
// be refused any more when it has been read, it goes on: a browser opens connections before it needs them, and its user may sign in
// meanwhile. kept is as in carryStream.
func (r *Router) refuseNamed(ctx context.Context, a Answerer, e *entry) (kept bool) {
	client := e.accepted()
	if client == nil {
		return false
	}
	stop := context.AfterFunc(ctx, func() { abort(client) })
	head := r.heads.begin(e.facts.client())
	err := head.readName(client, r.SniffTimeout)
	if err == nil && len(head.b) > 0 && e.isOpenNow(r) {
		stop()
		return e.carryNamed(ctx, r, a, client, head)
	}
	defer head.release()
	defer client.Close()
	defer stop()
	if err != nil {
		abort(client)
		return false
	}
	v := e.verdict()
	refuseStream(client, head, &v)
	return false
}

// isOpenNow reports whether a flow that was refused may go on now, unless a name in it forbids that: openNamed judges it with those.
func (e *entry) isOpenNow(r *Router) bool {
	f := e.flow()
	f.Time = r.Clock()
	return r.Clients.Describe(&f) && r.Policy.Decide(f).Action == policy.Forward
}

// refuseStream ends a stream that starts with head: with the page if head is a complete HTTP/1 request, else with RST.
func refuseStream(client net.Conn, head *head, v *policy.Verdict) {
	res := head.result()
	if res.Protocol != sniff.HTTP || res.Ambiguous || v.Action != policy.Refuse || sendBlockPage(client, head.b, v, res.Host.String()) != nil {
		abort(client)
	}
}

// sendBlockPage answers one request, with the block page or the way to where somebody has to sign in. It ends the connection, so that
// no further request is served.
func sendBlockPage(client net.Conn, head []byte, v *policy.Verdict, host string) error {
	method, _, _ := bytes.Cut(bytes.TrimLeft(head, "\r\n"), []byte(" "))
	isHead := string(method) == http.MethodHead
	if v.SignIn != "" && (isHead || string(method) == http.MethodGet) {
		return lastAnswer(client, "HTTP/1.1 303 See Other\r\nLocation: "+v.SignIn+"\r\nContent-Length: 0\r\n", nil)
	}
	var body bytes.Buffer
	err := blockPage.Execute(&body, struct {
		Host, Rule, Category string
		Quota                bool
	}{host, v.Rule, v.Category, v.Cause == policy.ByQuota})
	if err != nil {
		return err
	}
	header := fmt.Sprintf("HTTP/1.1 403 Forbidden\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n", body.Len())
	if isHead {
		body.Reset()
	}
	return lastAnswer(client, header, body.Bytes())
}

// lastAnswer sends an answer and ends the connection.
func lastAnswer(client net.Conn, header string, body []byte) error {
	answer := append([]byte(header+"Cache-Control: no-store\r\nConnection: close\r\n\r\n"), body...)
	if err := client.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := client.Write(answer); err != nil {
		return err
	}
	if err := closeWrite(client); err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, client, maxDrain) // it does not matter how the client ends
	return nil
}

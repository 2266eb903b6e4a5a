package dnsproxy

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/records"
	"penstock/dnsproxy/wire"
	"penstock/policy"
)

// anaPhone is what is known of a peer that asks from elsewhere.
func anaPhone() policy.Flow {
	return policy.Flow{Src: ana, Client: 7, Peer: "ana"}
}

// web serves a flow's client over HTTP until the test ends.
func web(t *testing.T, s *Server, f policy.Flow) *httptest.Server {
	t.Helper()
	p := NewPrivate(s)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { p.AnswerHTTP(w, req, f) }))
	t.Cleanup(server.Close)
	return server
}

// TestRFC8484 has the requests of DNS over HTTPS, and those that look like it.
func TestRFC8484(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1", "www.example. 120 IN A 203.0.113.2", "soa.example. 300 IN TXT x")
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}}, judged(blocks(map[string]string{"casino.example": "gambling"})))
	server := web(t, s, anaPhone())
	pack := func(name, qtype string) []byte {
		q := query(name, qtype)
		q.Id = 0
		packed, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	good := pack("www.example", "A")
	answer := bytes.Clone(good)
	answer[2] |= 0x80
	url := base64.RawURLEncoding.EncodeToString(good)
	get := func(q string) *http.Request {
		r, _ := http.NewRequest(http.MethodGet, server.URL+"/dns-query?"+q, nil)
		return r
	}
	post := func(kind string, body []byte) *http.Request {
		r, _ := http.NewRequest(http.MethodPost, server.URL+"/dns-query", bytes.NewReader(body))
		r.Header.Set("Content-Type", kind)
		return r
	}
	method := func(m string) *http.Request {
		r, _ := http.NewRequest(m, server.URL+"/dns-query?dns="+url, nil)
		return r
	}
	for _, tt := range []struct {
		says string
		req  *http.Request
		code int
		want string // the answer in brief
		keep string // Cache-Control
	}{
		{"GET", get("dns=" + url), 200, "NOERROR 203.0.113.1 203.0.113.2", "private, max-age=120"},
		{"POST", post(mediaType, good), 200, "NOERROR 203.0.113.1 203.0.113.2", "private, max-age=120"},
		{"a media type has no case, and may have parameters", post("Application/DNS-Message; x=y", good), 200, "NOERROR 203.0.113.1 203.0.113.2", "private, max-age=120"},
		{"other parameters are ignored", get("ct=x&dns=" + url), 200, "NOERROR 203.0.113.1 203.0.113.2", "private, max-age=120"},
		{"a blocked name lives as long as its SOA", post(mediaType, pack("casino.example", "A")), 200, "NXDOMAIN soa edeFiltered", "private, max-age=30"},
		{"a query that is none of DNS's is answered as in UDP", post(mediaType, append(bytes.Clone(good[:12]), 0xff)), 200, "FORMERR", "private, max-age=0"},
		{"GET without a query", get(""), 400, "", ""},
		{"GET with two", get("dns=" + url + "&dns=" + url), 400, "", ""},
		{"GET with padding", get("dns=" + base64.URLEncoding.EncodeToString(append(good, 0))), 400, "", ""},
		{"GET with the other alphabet", get("dns=%2B%2F%2B%2F"), 400, "", ""},
		{"GET with bits left over", get("dns=" + url[:len(url)-1] + "_"), 400, "", ""},
		{"POST of nothing", post(mediaType, nil), 400, "", ""},
		{"POST of a header cut off", post(mediaType, good[:11]), 400, "", ""},
		{"POST of an answer", post(mediaType, answer), 400, "", ""},
		{"POST of a form", post("application/x-www-form-urlencoded", good), 415, "", ""},
		{"POST of JSON", post("application/dns-json", good), 415, "", ""},
		{"POST without a type", post("", good), 415, "", ""},
		{"POST of 64 KiB", post(mediaType, make([]byte, 1<<16)), 413, "", ""},
		{"PUT", method(http.MethodPut), 405, "", ""},
		{"HEAD", method(http.MethodHead), 405, "", ""},
		{"OPTIONS", method(http.MethodOptions), 405, "", ""},
	} {
		res, err := http.DefaultClient.Do(tt.req)
		if err != nil {
			t.Errorf("%s: %v", tt.says, err)
			continue
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != tt.code || (res.Header.Get("Allow") != "") != (tt.code == 405) {
			t.Errorf("%s: got %d, %v, Allow %q; want %d", tt.says, res.StatusCode, err, res.Header.Get("Allow"), tt.code)
		}
		if tt.code != 200 {
			continue
		}
		a := new(dns.Msg)
		if err := a.Unpack(body); err != nil || brief(a) != tt.want || a.Id != 0 {
			t.Errorf("%s: got %s, %v; want %s", tt.says, brief(a), err, tt.want)
		}
		if kind, keep := res.Header.Get("Content-Type"), res.Header.Get("Cache-Control"); kind != mediaType || keep != tt.keep {
			t.Errorf("%s: got %s, %s; want %s", tt.says, kind, keep, tt.keep)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestHTTPSIsTheClients: a question over HTTPS has the client's policy and names, and ends with the client.
func TestHTTPSIsTheClients(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1", "wiki.corp.example. 300 IN A 10.20.0.10", "slow.example. 300 IN A 203.0.113.9")
	asked := make(chan struct{}, 8)
	up.AnswerWith(func(_ dns.ResponseWriter, q *dns.Msg) bool {
		if q.Question[0].Name != "slow.example." {
			return false
		}
		asked <- struct{}{}
		return true
	})
	s := newServer(t, Settings{
		Upstreams: []Upstream{named("main", up)}, Zones: []Zone{{Domains: []string{"corp.example"}, Upstreams: []Upstream{named("corp", up)}}},
		Clients: prefixes("10.77.0.0/16"),
		Records: bookOf(t, []records.Record{
			{Name: "ana.peers.example", Addrs: addrsOf("10.99.0.2")}, {Name: "desk.example", CNAME: "ana.peers.example"}, {Name: "site.example", Addrs: addrsOf("203.0.113.5")},
			{Name: "intra.example", CNAME: "wiki.corp.example"},
		}, "peers.example"),
	}, judged(func(f policy.Flow) policy.Verdict {
		if f.Peer == "ana" && below(f.Names[0].Host, "silent.example") {
			return policy.Verdict{Action: policy.Drop}
		}
		return policy.Verdict{Action: policy.Forward, Egress: policy.EgressDirect}
	}))
	client := &http.Client{Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	send := func(f policy.Flow, name string) (string, error) {
		packed, err := query(name, "A").Pack()
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Post(web(t, s, f).URL, mediaType, bytes.NewReader(packed))
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 {
			return res.Status, err
		}
		a := new(dns.Msg)
		err = a.Unpack(body)
		return brief(a), err
	}
	near, far := policy.Flow{Src: ana}, policy.Flow{Src: addr("192.0.2.1:40000")}
	for _, tt := range []struct {
		says string
		from policy.Flow
		name string
		want string
	}{
		{"a peer, from anywhere", policy.Flow{Src: far.Src, Client: 7, Peer: "ana"}, "www.example", "NOERROR 203.0.113.1"},
		{"a peer may ask about zones", anaPhone(), "wiki.corp.example", "NOERROR 10.20.0.10"},
		{"a stranger of Settings.Clients", near, "www.example", "NOERROR 203.0.113.1"},
		{"but he may not ask about zones, even if they are in the cache", near, "wiki.corp.example", "REFUSED edeProhibited"},
		{"a peer may ask about peers", anaPhone(), "ana.peers.example", "NOERROR 10.99.0.2"},
		{"a stranger may not", near, "ana.peers.example", "REFUSED edeProhibited"},
		{"nor whether there is one", near, "bob.peers.example", "REFUSED edeProhibited"},
		{"nor by another name", near, "desk.example", "REFUSED edeProhibited"},
		{"a peer may ask about a zone by another name", anaPhone(), "intra.example", "NOERROR wiki.corp.example. 10.20.0.10"},
		{"a stranger may not, even if it is in the cache", near, "intra.example", "REFUSED edeProhibited"},
		{"nor who has an address", near, "2.0.99.10.in-addr.arpa", "REFUSED edeProhibited"},
		{"but about records", near, "site.example", "NOERROR 203.0.113.5"},
		{"a stranger from elsewhere", far, "www.example", "404 Not Found"},
	} {
		if got, err := send(tt.from, tt.name); err != nil || got != tt.want {
			t.Errorf("%s: got %s, %v; want %s", tt.says, got, err, tt.want)
		}
	}
	if got := s.Names().Lookup(7, addr("203.0.113.1:1").Addr()); len(got) != 1 || got[0].Host != "www.example" {
		t.Errorf("names of the client: got %v", got)
	}
	if got, err := send(anaPhone(), "x.silent.example"); err == nil {
		t.Errorf("a rule that drops: got %s, want no response", got)
	}
	go func() {
		<-asked
		s.CloseClient(7)
	}()
	if got, err := send(anaPhone(), "slow.example"); err == nil {
		t.Errorf("a client that is closed: got %s, want no response", got)
	}
}

// TestPaddedAnswers: who pads gets padded answers, over TLS alone.
func TestPaddedAnswers(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}}, judged(blocks(map[string]string{"casino.example": "gambling"})))
	server := web(t, s, anaPhone())
	for _, name := range []string{"www.example", "casino.example", "nothing.example"} {
		q := query(name, "A")
		q.IsEdns0().Option = append(q.IsEdns0().Option, &dns.EDNS0_PADDING{Padding: make([]byte, 40)})
		packed, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.Post(server.URL, mediaType, bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if a := new(dns.Msg); err != nil || a.Unpack(body) != nil || len(body)%wire.AnswersPaddedTo != 0 {
			t.Errorf("%s: got %d octets, %v: %s", name, len(body), err, a)
		}
		if a := exchangePacket(t, s, ana, q); strings.Contains(a.String(), "PADDING") {
			t.Errorf("%s in clear: got %s", name, a)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

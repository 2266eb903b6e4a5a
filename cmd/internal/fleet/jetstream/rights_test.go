package jetstream_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/engine"
	"penstock/cmd/internal/fleet/jetstream"
	"penstock/cmd/internal/fleet/store"
	"penstock/cmd/internal/fleet/store/storetest"
)

// The users of deploy/nats/server.conf.
const (
	operatorKey = "UCWPHOCQSTG7XYLITXUBJMI3ST6OSDJ7EK4DLGGHXOHJ7PVCUSKVZJLD"
	gatewayKey  = "UCM4U3MR7FGBOI4F253NTBRKKCPGKA4KH66WBSUKPM7PTYTUZOIV2ELY"
)

// deployed is a server with the configuration of deploy/nats, with keys and certificates of its own.
type deployed struct {
	engine           *engine.Engine
	dir, ca          string
	operator, stolen config.NATS // stolen is the gateway's
}

func deploy(t *testing.T, cluster int, change func(conf string) string) deployed {
	t.Helper()
	text, err := os.ReadFile("../../../../deploy/nats/server.conf")
	if err != nil {
		t.Fatal(err)
	}
	d := deployed{dir: t.TempDir()}
	d.ca = certificates(t, d.dir)
	conf := strings.ReplaceAll(string(text), "/etc/nats", d.dir)
	user := func(example, file string) config.NATS {
		pair, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		public, err := pair.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		seed, err := pair.Seed()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(conf, example) != 2 {
			t.Fatalf("the configuration has the key %s %d times, want twice", example, strings.Count(conf, example))
		}
		conf = strings.ReplaceAll(conf, example, public)
		return config.NATS{NKey: config.Secret{File: write(t, d.dir, file, seed)}, CA: d.ca, Replicas: cluster}
	}
	d.operator, d.stolen = user(operatorKey, "operator.seed"), user(gatewayKey, "gateway.seed")
	if change != nil {
		conf = strings.ReplaceAll(change(conf), "@/", d.dir+"/")
	}
	d.engine = start(t, engine.Options{Cluster: cluster, ConfigFile: write(t, d.dir, "server.conf", []byte(conf))})
	for _, c := range []*config.NATS{&d.operator, &d.stolen} {
		c.Servers = d.engine.URLs()
	}
	return d
}

func TestRightsOfAGateway(t *testing.T) {
	t.Parallel()
	d := deploy(t, 3, nil)
	operator, gateway := openWith(t, jetstream.Config{NATS: d.operator}), openWith(t, jetstream.Config{NATS: d.stolen})

	t.Run("before the operator has made the buckets, there is nothing", func(t *testing.T) {
		if _, err := gateway.Get(t.Context(), store.Truth, "muc"); !errors.Is(err, store.ErrNone) {
			t.Errorf("got %v, want ErrNone", err)
		}
		if _, err := gateway.Put(t.Context(), store.State, "muc.muc-1", []byte("x"), store.Any); !errors.Is(err, store.ErrForbidden) {
			t.Errorf("got %v, want ErrForbidden", err)
		}
	})
	seed(t, operator)
	blob := storetest.Random(1 << 20)
	digest, err := operator.PublishBlob(t.Context(), bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}

	t.Run("it does all that a gateway does", func(t *testing.T) {
		for b, prefix := range map[store.Bucket]string{store.Truth: "muc", store.Peers: "muc", store.Joins: "muc", store.State: "muc", store.Sessions: "muc"} {
			w := storetest.Watch(t, gateway, b, prefix)
			w.Await(t, "the marker", w.Complete)
		}
		own := storetest.Watch(t, gateway, store.Sessions, "muc.muc-1")
		own.Await(t, "the marker", own.Complete)
		put(t, gateway, store.State, "muc.muc-1", "beat")
		put(t, gateway, store.Sessions, "muc.muc-1.peer", "session")
		put(t, gateway, store.Sessions, "muc.muc-1.peer", "")
		storetest.AwaitNone(t, gateway, store.Sessions, "muc.muc-1.peer")
		if _, err := gateway.Put(t.Context(), store.Sessions, "muc.muc-1.peer", []byte("again"), 0); err != nil {
			t.Error(err)
		}
		if err := gateway.Lease(t.Context(), "muc.address", "muc-1", time.Hour); err != nil {
			t.Error(err)
		}
		join := "muc." + strings.Repeat("0a", 32) // whoever is first
		if _, err := gateway.Put(t.Context(), store.Joins, join, []byte("first"), 0); err != nil {
			t.Error(err)
		}
		if _, err := gateway.Put(t.Context(), store.Joins, join, []byte("second"), 0); !errors.Is(err, store.ErrConflict) {
			t.Errorf("a second join: got %v, want ErrConflict", err)
		}
		for _, b := range []store.Bucket{store.Truth, store.Peers, store.Joins, store.State} {
			key := "muc"
			if b != store.Truth {
				key += ".other"
			}
			if _, err := gateway.Get(t.Context(), b, key); err != nil {
				t.Errorf("read %s/%s: %v", b, key, err)
			}
		}
		var got bytes.Buffer
		if err := gateway.FetchBlob(t.Context(), digest, &got); err != nil || !bytes.Equal(got.Bytes(), blob) {
			t.Errorf("fetch a blob: %v", err)
		}
	})
	t.Run("and nothing else, and is told so at once", func(t *testing.T) {
		// Without a deadline: a call that waited for an answer would wait for a minute, and not end with ErrForbidden.
		ctx := t.Context()
		write := func(b store.Bucket, key string) func() error {
			return func() error { _, err := gateway.Put(ctx, b, key, []byte("x"), store.Any); return err }
		}
		read := func(b store.Bucket, key string) func() error {
			return func() error { _, err := gateway.Get(ctx, b, key); return err }
		}
		watch := func(b store.Bucket, prefix string) func() error {
			return func() error { return gateway.Watch(ctx, b, prefix, func(store.Entry) {}) }
		}
		for name, call := range map[string]func() error{
			"write truth":                   write(store.Truth, "muc"),
			"write peers":                   write(store.Peers, "muc.peer"),
			"write another site's joins":    write(store.Joins, "fra.key"),
			"write below a join":            write(store.Joins, "muc.key.x"),
			"watch another site's joins":    watch(store.Joins, "fra"),
			"remove peers":                  func() error { _, err := gateway.Put(ctx, store.Peers, "muc.other", nil, store.Any); return err },
			"write another's state":         write(store.State, "muc.other"),
			"write another's sessions":      write(store.Sessions, "muc.other.peer"),
			"write below its own state":     write(store.State, "muc.muc-1.x"),
			"write another site's leases":   write(store.Leases, "fra.address"),
			"lease at another site":         func() error { return gateway.Lease(ctx, "fra.address", "muc-1", time.Hour) },
			"read another site's truth":     read(store.Truth, "fra"),
			"read another site's state":     read(store.State, "fra.g"),
			"watch all truth":               watch(store.Truth, ""),
			"watch all sessions":            watch(store.Sessions, ""),
			"watch another site's sessions": watch(store.Sessions, "fra"),
			"publish a blob": func() error {
				_, err := gateway.PublishBlob(ctx, strings.NewReader("forged"))
				return err
			},
		} {
			if err := call(); !errors.Is(err, store.ErrForbidden) {
				t.Errorf("%s: got %v, want ErrForbidden", name, err)
			}
		}
		storetest.AwaitValue(t, operator, store.Truth, "muc", "bundle", 1)
		if _, err := gateway.Get(ctx, store.Truth, "muc"); err != nil {
			t.Errorf("after all that was forbidden, what is allowed does not work: %v", err)
		}
	})
	t.Run("it cannot change streams, nor hear others", func(t *testing.T) {
		nc := dial(t, d)
		complaints := make(chan error, 16)
		nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { complaints <- err })
		for _, subject := range []string{"$JS.API.STREAM.PURGE.KV_truth", "$JS.API.STREAM.DELETE.KV_state", "$JS.API.STREAM.UPDATE.KV_truth", "$JS.API.STREAM.CREATE.KV_x",
			"$JS.API.STREAM.MSG.DELETE.KV_truth", "$JS.API.STREAM.MSG.GET.KV_truth", "$JS.API.CONSUMER.CREATE.KV_sessions.x", "$JS.API.CONSUMER.CREATE.KV_sessions",
			"$JS.API.CONSUMER.DELETE.KV_state.x", "$JS.API.CONSUMER.NAMES.KV_state", "$JS.API.DIRECT.GET.KV_sessions", "$O.blobs.C.x", "$SYS.REQ.SERVER.PING"} {
			if err := nc.Publish(subject, nil); err != nil {
				t.Fatal(err)
			}
			complains(t, complaints, subject)
		}
		for _, subject := range []string{"_INBOX.>", "$KV.>", ">"} {
			if _, err := nc.SubscribeSync(subject); err != nil {
				t.Fatal(err)
			}
			complains(t, complaints, subject)
		}
	})
	t.Run("it cannot watch another site's sessions under the name of its own", func(t *testing.T) {
		nc := dial(t, d)
		for _, filter := range []string{`"filter_subject":"$KV.sessions.>"`, `"filter_subjects":["$KV.sessions.>"]`, `"name":"x"`} {
			answer, err := nc.Request("$JS.API.CONSUMER.CREATE.KV_sessions.x.$KV.sessions.muc.>",
				[]byte(`{"stream_name":"KV_sessions","action":"create","config":{"name":"x","durable_name":"","ack_policy":"none","deliver_policy":"all",`+filter+`}}`), patience)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(answer.Data, []byte(`"error"`)) {
				t.Errorf("a consumer with %s: got %s, want an error", filter, answer.Data)
			}
		}
	})
}

// TestWhatTheServerDoesNotForbid holds what deploy/nats says of a gateway in bad hands. When it fails because the server forbids this,
// mend the text.
func TestWhatTheServerDoesNotForbid(t *testing.T) {
	t.Parallel()
	d := deploy(t, 1, nil)
	operator := openWith(t, jetstream.Config{NATS: d.operator})
	seed(t, operator)
	put(t, openWith(t, jetstream.Config{NATS: d.stolen}), store.State, "muc.muc-1", "forged")
	nc := dial(t, d)
	if err := nc.PublishRequest("$JS.API.DIRECT.GET.KV_state.$KV.state.muc.muc-1", "$KV.state.muc.other", nil); err != nil {
		t.Fatal(err)
	}
	await(t, "another's state with a forged value", func() bool {
		e, err := operator.Get(t.Context(), store.State, "muc.other")
		return err == nil && string(e.Value) == "forged"
	})
	empty := nats.NewMsg("$KV.joins.muc.mine")
	empty.Header.Set("Nats-Rollup", "all")
	if err := nc.PublishMsg(empty); err != nil {
		t.Fatal(err)
	}
	await(t, "a bucket that the gateway writes is empty", func() bool {
		_, err := operator.Get(t.Context(), store.Joins, "muc.other")
		return errors.Is(err, store.ErrNone)
	})
	empty.Subject = "$KV.peers.muc.mine"
	if err := nc.PublishMsg(empty); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	storetest.AwaitValue(t, operator, store.Peers, "muc.other", "peer", 1)
}

// TestOneServerLosesItsMemory has the rights that the configuration names for a single server.
func TestOneServerLosesItsMemory(t *testing.T) {
	t.Parallel()
	d := deploy(t, 1, func(conf string) string {
		const at = `"$JS.API.STREAM.INFO.KV_truth"`
		return strings.Replace(conf, at, at+"\n"+`"$JS.API.STREAM.CREATE.KV_state", "$JS.API.STREAM.CREATE.KV_sessions", "$JS.API.INFO"`, 1)
	})
	operator, gateway := openWith(t, jetstream.Config{NATS: d.operator}), openWith(t, jetstream.Config{NATS: d.stolen})
	seed(t, operator)
	put(t, gateway, store.State, "muc.muc-1", "beat")
	d.engine.Kill()
	if err := d.engine.Restart(); err != nil {
		t.Fatal(err)
	}
	put(t, gateway, store.State, "muc.muc-1", "beat")
	put(t, gateway, store.Sessions, "muc.muc-1.peer", "session")
	storetest.AwaitValue(t, gateway, store.Truth, "muc", "bundle", 1)
}

func TestStrangersAreNotLetIn(t *testing.T) {
	t.Parallel()
	d := deploy(t, 1, nil)
	other, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := other.Seed()
	if err != nil {
		t.Fatal(err)
	}
	c := d.stolen
	c.NKey = config.Secret{File: write(t, d.dir, "other.seed", seed)}
	strangers := map[string]config.NATS{"another key": c, "no key": {Servers: c.Servers, CA: c.CA}, "no CA": {Servers: d.operator.Servers, NKey: d.operator.NKey}}
	for name, c := range strangers {
		s := openWith(t, jetstream.Config{NATS: c})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := s.Get(ctx, store.Truth, "muc"); !errors.Is(err, context.DeadlineExceeded) || s.Connected() {
			t.Errorf("%s: got %v, want no connection", name, err)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]config.NATS{
		"a seed that is none":        {Servers: c.Servers, NKey: config.Secret{File: write(t, d.dir, "bad.seed", []byte("SUAB"))}},
		"credentials without a seed": {Servers: c.Servers, Credentials: config.Secret{File: write(t, d.dir, "bad.creds", []byte("x"))}},
		"a CA that is none":          {Servers: c.Servers, CA: write(t, d.dir, "bad.crt", []byte("x"))},
		"a CA that is not there":     {Servers: c.Servers, CA: filepath.Join(d.dir, "none.crt")},
		"a key without certificate":  {Servers: c.Servers, Certificate: d.ca, PrivateKey: c.NKey},
		"no servers":                 {},
	} {
		if s, err := jetstream.Open(t.Context(), jetstream.Config{NATS: c}); err == nil {
			s.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

func TestClientCertificate(t *testing.T) {
	t.Parallel()
	d := deploy(t, 1, func(conf string) string {
		return strings.Replace(conf, "tls {", "tls {\n  verify: true\n  ca_file: \"@/ca.crt\"", 1)
	})
	bare := openWith(t, jetstream.Config{NATS: d.operator})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := bare.Get(ctx, store.Truth, "muc"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a certificate: got %v, want no connection", err)
	}
	c := d.operator
	c.Certificate, c.PrivateKey = filepath.Join(d.dir, "server.crt"), config.Secret{File: filepath.Join(d.dir, "server.key")}
	shown := openWith(t, jetstream.Config{NATS: c})
	put(t, shown, store.Truth, "muc", "bundle")
}

// seed makes all buckets, as an operator does.
func seed(t *testing.T, operator *jetstream.Store) {
	t.Helper()
	put(t, operator, store.Truth, "muc", "bundle")
	put(t, operator, store.Peers, "muc.other", "peer")
	put(t, operator, store.Joins, "muc.other", "join")
	put(t, operator, store.State, "muc.other", "beat")
	put(t, operator, store.Sessions, "muc.other.peer", "session")
	put(t, operator, store.Leases, "muc.other", "holder")
	if _, err := operator.PublishBlob(t.Context(), strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
}

func complains(t *testing.T, complaints <-chan error, subject string) {
	t.Helper()
	select {
	case err := <-complaints:
		if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `"`+subject+`"`) {
			t.Errorf("%s: got %v, want a complaint about it", subject, err)
		}
	case <-time.After(patience):
		t.Errorf("%s: the server does not complain", subject)
	}
}

// dial connects as the gateway, without our code.
func dial(t *testing.T, d deployed) *nats.Conn {
	t.Helper()
	option, err := nats.NkeyOptionFromSeed(d.stolen.NKey.File)
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(d.stolen.NKey.File)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := nkeys.FromSeed(public)
	if err != nil {
		t.Fatal(err)
	}
	name, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(d.engine.URL(), option, nats.RootCAs(d.ca), nats.CustomInboxPrefix("_INBOX."+name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func write(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// certificates writes server.crt and server.key for loopback, and returns the file of their CA.
func certificates(t *testing.T, dir string) (ca string) {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true,
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "nats"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "server.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER}))
	write(t, dir, "server.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	return write(t, dir, "ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}))
}

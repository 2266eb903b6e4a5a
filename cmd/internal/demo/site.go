package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/fleet"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
	"penstock/e2e/netlab"
	"penstock/router/transport/wireguard"
)

// siteName is the name of the site whose gateways the demo of a fleet runs.
const siteName = "demo"

// member is a gateway of the site.
type member struct {
	name     string
	outer    netip.Addr     // its address on the internet
	endpoint netip.AddrPort // of its WireGuard port
	pulse    netip.AddrPort // where the other gateway asks whether it lives
	// listen is the section of that name in its own file, which is only needed if it is not the same for all gateways of the site.
	listen string
}

// newMembers returns the two gateways, without their ports.
func newMembers() []member {
	return []member{
		{name: "gw1", outer: netip.MustParseAddr(netlab.GatewayIPv4)},
		{name: "gw2", outer: netip.MustParseAddr("198.51.102.10")},
	}
}

// site is what the operator of the gateways has: a folder with their configuration, a key to sign it, and the store.
type site struct {
	dir     string
	members []member
	engine  string // address of the NATS server for the gateways
	tun     string // the laptop's listen.tun

	operator bundle.PrivateKey
	gateways []bundle.Gateway
	store    store.Store
	closing  func()
}

func (s *site) file(name string) string   { return filepath.Join(s.dir, name) }
func (s *site) socket(name string) string { return s.file(name + ".sock") }

// open writes all keys and files, and publishes the first bundle in the NATS server at an address here. The caller calls close.
func (s *site) open(ctx context.Context, here string) (err error) {
	if err := s.write(); err != nil {
		return err
	}
	s.store, s.closing, err = fleet.OpenStore(ctx, config.FleetStore{NATS: &config.NATS{Servers: []string{"nats://" + here}, Replicas: 1}}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	_, err = s.publish(ctx, 1)
	return err
}

func (s *site) close() {
	if s.closing != nil {
		s.closing()
	}
}

// write writes what the laptop and each gateway have on their disks, and the folder that bundles are made of.
func (s *site) write() (err error) {
	if s.operator, err = bundle.NewPrivateKey(); err != nil {
		return err
	}
	siteKey, laptopKey, shared := wireguard.GeneratePrivateKey(), wireguard.GeneratePrivateKey(), wireguard.GeneratePresharedKey()
	first := s.members[0].endpoint
	var corp bytes.Buffer
	if _, err := wireguard.ClientFile(wireguard.ServerInfo{
		Endpoints: []wireguard.Endpoint{{Host: first.Addr().String(), Port: first.Port()}}, // of one gateway: the other finds the laptop
		PublicKey: siteKey.Public(),
		DNS:       []netip.Addr{netip.MustParseAddr(gatewayInner4)},
	}, laptopKey, wireguard.Peer{
		Name: "laptop", PublicKey: laptopKey.Public(), PresharedKey: shared, AllowedIPs: prefixes(laptopInner4+"/32", laptopInner6+"/128"),
	}).WriteTo(&corp); err != nil {
		return err
	}
	files := map[string]string{
		"corp.conf": corp.String(), "laptop.yaml": followingLaptopConfig(s.tun), "site.key": siteKey.Reveal() + "\n",
		"site/rules.yaml": siteRules(laptopKey.Public()), "site/secrets/laptop.psk": shared.Reveal() + "\n",
	}
	if s.members[0].listen == "" {
		files["site/listen.yaml"] = listenConfig(first.Port(), "secrets/site.key")
		files["site/secrets/site.key"] = siteKey.Reveal() + "\n"
	}
	operator := s.operator.Public().String()
	about := fmt.Sprintf("site:\n  name: %s\n  signers: [%q]\n  gateways:\n", siteName, operator)
	for _, g := range s.members {
		key, err := bundle.NewIdentity()
		if err != nil {
			return err
		}
		s.gateways = append(s.gateways, bundle.Gateway{Name: g.name, Recipient: key.Recipient()})
		about += fmt.Sprintf("    - {name: %s, key: %s}\n", g.name, key.Recipient())
		files[g.name+".key"] = key.Reveal() + "\n"
		files[g.name+".yaml"] = memberConfig(g, operator, s.engine)
	}
	files["site/site.yaml"] = about
	if err := os.MkdirAll(s.file("site/secrets"), 0o700); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(s.file(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// block makes the next bundle block the gambling site.
func (s *site) block() error {
	text, err := os.ReadFile(s.file("site/rules.yaml"))
	if err != nil {
		return err
	}
	const rules = "rules:\n"
	blocking := strings.Replace(string(text), rules,
		"categories:\n  gambling: {lists: [{file: gambling.txt}]}\n"+rules+"  - {name: no-gambling, match: {category: gambling}, do: block}\n", 1)
	return errors.Join(
		os.WriteFile(s.file("site/gambling.txt"), []byte(gamblingSite+"\n"), 0o600),
		os.WriteFile(s.file("site/rules.yaml"), []byte(blocking), 0o600),
	)
}

// sign makes a bundle of the site's folder and signs it.
func (s *site) sign(generation uint64) (bundle.Signed, *bundle.Built, error) {
	built, err := bundle.Build(s.file("site"), bundle.Manifest{
		Site: siteName, Generation: generation, Made: time.Now(), Signers: []bundle.PublicKey{s.operator.Public()}, Gateways: s.gateways,
	})
	if err != nil {
		return nil, nil, err
	}
	signed, err := bundle.Sign(built.Manifest, s.operator)
	return signed, built, err
}

// publish makes a bundle of the site's folder and puts it into the store.
func (s *site) publish(ctx context.Context, generation uint64) (bundle.Signed, error) {
	signed, built, err := s.sign(generation)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	for _, f := range built.Manifest.Files {
		var content bytes.Buffer
		if err := built.Fetch(ctx, f, &content); err != nil {
			return nil, err
		}
		if _, err := s.store.PublishBlob(ctx, &content); err != nil {
			return nil, fmt.Errorf("publish %s: %w", f.Name, err)
		}
	}
	return signed, s.put(ctx, signed)
}

// put puts a manifest into the store, which believes everything.
func (s *site) put(ctx context.Context, signed bundle.Signed) error {
	if _, err := s.store.Put(ctx, store.Truth, siteName, signed, store.Any); err != nil {
		return fmt.Errorf("publish a bundle: %w", err)
	}
	return nil
}

// altered returns a bundle in which another generation was written after it was signed.
func altered(signed bundle.Signed, from, to uint64) (bundle.Signed, error) {
	var e struct {
		Signed     []byte          `json:"signed"`
		Signatures json.RawMessage `json:"signatures"`
	}
	if err := json.Unmarshal(signed, &e); err != nil {
		return nil, err
	}
	before := e.Signed
	e.Signed = bytes.Replace(before, fmt.Appendf(nil, `"generation":%d`, from), fmt.Appendf(nil, `"generation":%d`, to), 1)
	if bytes.Equal(before, e.Signed) {
		return nil, fmt.Errorf("the bundle is not of generation %d", from)
	}
	return json.Marshal(e)
}

// fleet returns how the fleet looks from a gateway.
func (s *site) fleet(ctx context.Context, name string) (*control.Fleet, error) {
	c, err := control.Dial(ctx, s.socket(name))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	status, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	if status.Fleet == nil {
		return nil, fmt.Errorf("%s is in no fleet", name)
	}
	return status.Fleet, nil
}

// sees waits until a gateway sees another one, or itself, as good says.
func (s *site) sees(ctx context.Context, name, other string, good func(control.FleetGateway) bool) error {
	var last control.FleetGateway
	err := await(ctx, fmt.Sprintf("%s did not see %s as it should be", name, other), func() (bool, error) {
		f, err := s.fleet(ctx, name)
		if err != nil {
			return false, err
		}
		i := slices.IndexFunc(f.Gateways, func(g control.FleetGateway) bool { return g.Name == other })
		if i < 0 {
			return false, nil
		}
		last = f.Gateways[i]
		return f.Connected && good(last), nil
	})
	if err != nil {
		return fmt.Errorf("%w: last it was %+v", err, last)
	}
	return nil
}

// explain asks a gateway what becomes of a laptop's request.
func (s *site) explain(ctx context.Context, name, target string) (control.Explanation, error) {
	c, err := control.Dial(ctx, s.socket(name))
	if err != nil {
		return control.Explanation{}, err
	}
	defer c.Close()
	return c.Explain(ctx, control.ExplainQuery{Target: target, From: "laptop"})
}

// listenConfig is the WireGuard port of gateways.
func listenConfig(port uint16, key string) string {
	return fmt.Sprintf("listen:\n  wireguard: {listen_port: %d, address: [%s/24, %s/64], private_key: {file: %s}}\n", port, gatewayInner4, gatewayInner6, key)
}

// memberConfig is a gateway's own file. All else is in bundles.
func memberConfig(g member, operator, engine string) string {
	return fmt.Sprintf(`fleet:
  site: %s
  gateway: %s
  key: {file: %[2]s.key}
  signers: [%[3]q]
  endpoint: %[4]s
  store: {nats: {servers: ["nats://%[5]s"], replicas: 1}}
state_dir: state-%[2]s
%[6]s`, siteName, g.name, operator, g.pulse, engine, g.listen)
}

// siteRules is what a bundle says of the site's peers and rules.
func siteRules(laptop wireguard.PublicKey) string {
	return fmt.Sprintf(`peers:
  - {name: laptop, public_key: %q, preshared_key: {file: secrets/laptop.psk}, allowed_ips: [%s/32, %s/128], groups: [staff]}
dns:
  upstreams: [{address: %s}]
rules:
  - {name: no-private, match: {cidr: private}, do: block}
  - {name: rest, do: direct}
`, laptop, laptopInner4, laptopInner6, resolverAddr)
}

// followingLaptopConfig is the file of a laptop that sends everything to its gateways and filters nothing itself.
func followingLaptopConfig(tun string) string {
	return fmt.Sprintf(`listen:
  tun: %s
state_dir: state-laptop
transports:
  corp: {wireguard: {config: corp.conf}}
dns:
  upstreams: [{address: %s, via: corp}]
rules:
  - {name: rest, do: {via: corp}}
`, tun, gatewayInner4)
}

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
	"penstock/cmd/internal/private"
	"penstock/policy/textfile"
)

// Fleet makes this gateway one of several that share their peers and rules. Those come from signed bundles; see docs/fleet.md.
type Fleet struct {
	// Site is the name of the site that this gateway belongs to. All gateways of a site have the same peers, rules and WireGuard key.
	Site string `yaml:"site" required:"true"`
	// Gateway is the name of this gateway, as the site's bundle has it.
	Gateway string `yaml:"gateway" required:"true"`
	// Region is where this gateway is, for example eu. Gateways of one region even out their load, and take the peers of one of them that
	// is gone. Those that name none are one region.
	Region string `yaml:"region"`
	// Key is this gateway's key from `penstock fleet keygen gateway`. It opens the secrets of a bundle.
	Key Secret `yaml:"key"`
	// Signers are the public keys of the operators whose first bundle is believed. Each bundle names those who may sign the next.
	Signers []string `yaml:"signers"`
	// Store is where bundles come from and where the gateways tell each other how they are.
	Store FleetStore `yaml:"store"`
	// Endpoint is an address of this machine and a UDP port where the other gateways ask whether this one lives when they do not hear
	// it in the store. Without it, silence in the store counts as its end.
	Endpoint netip.AddrPort `yaml:"endpoint"`
	// DrainLimit is the longest time for which a gateway that is drained, or does not reach its health targets, hands its peers
	// over to others.
	DrainLimit time.Duration `yaml:"drain_limit" default:"1m"`

	// Folder is where bundles are kept, below state_dir. Bundle is the folder of the one that was read, and Generation its number.
	Folder     string   `yaml:"-"`
	Bundle     string   `yaml:"-"`
	Generation uint64   `yaml:"-"`
	Pos        Position `yaml:"-"`
}

// FleetStore is what the gateways of a fleet share: a folder, or NATS JetStream.
type FleetStore struct {
	// Dir is a folder that all gateways see, such as a network file system. One that can only be read, such as a mounted ConfigMap,
	// is enough for bundles; then peers are not handed over between gateways.
	Dir string `yaml:"dir" path:"written"`
	// NATS is a NATS server, or several of one cluster.
	NATS *NATS `yaml:"nats"`
}

// NATS is how to reach NATS.
type NATS struct {
	// Servers are URLs: tls://HOST:4222, or nats://HOST:4222 without encryption.
	Servers []string `yaml:"servers" required:"true"`
	// Credentials is a .creds file, with a JWT and an NKey seed.
	Credentials Secret `yaml:"credentials"`
	// NKey is a file with an NKey seed.
	NKey Secret `yaml:"nkey"`
	// CA is a file with the certificates that the servers' certificates must lead to. Default: those of the system.
	CA string `yaml:"ca" path:"file"`
	// Certificate is a file with the certificate for servers that ask this gateway for one.
	Certificate string `yaml:"certificate" path:"file"`
	// PrivateKey is the key of the certificate.
	PrivateKey Secret `yaml:"private_key"`
	// Replicas is on how many servers the values are kept that must last. Penstock makes what is missing with it. 3 needs a cluster.
	Replicas int `yaml:"replicas" default:"3"`

	Pos Position `yaml:"-"`
}

// Site is what a bundle says of the site that it is for. Only bundles have it.
type Site struct {
	// Name of the site.
	Name string `yaml:"name" required:"true"`
	// Signers are the public keys of the operators who may sign the next bundle, from `penstock fleet keygen operator`.
	Signers []string `yaml:"signers" required:"true"`
	// Gateways are the gateways of the site.
	Gateways []SiteGateway `yaml:"gateways" required:"true"`

	Pos Position `yaml:"-"`
}

// SiteGateway is a gateway of a site.
type SiteGateway struct {
	// Name of the gateway.
	Name string `yaml:"name" required:"true"`
	// Key is the gateway's public key, age1..., from `penstock fleet keygen gateway`.
	Key string `yaml:"key" required:"true"`

	Pos Position `yaml:"-"`
}

// inBundles are the sections that a bundle may have. The others are of one machine.
var inBundles = []string{
	"categories", "datapath", "dns", "group_limits", "health", "limits", "listen", "peers", "rules", "sign_in", "site", "tests", "transports", "version",
}

// candidate is a bundle to read instead of the one in force. The zero value is that one.
type candidate struct {
	dir        string
	generation uint64
}

// ErrNoBundle is in the error of a gateway of a fleet that has no bundle yet.
var ErrNoBundle = errors.New("there is no bundle of the site yet")

// ReloadBundle is c.Reload with the unpacked bundle in a folder instead of the one in force.
func ReloadBundle(c *Config, dir string, generation uint64) (*Config, error) {
	return serving(c.Path, c.Path, peersFiles{former: c.former, before: c}, candidate{dir, generation})
}

// LoadWithBundle is LoadServing with the unpacked bundle in a folder.
func LoadWithBundle(path, dir string, generation uint64) (*Config, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Load(path)
	}
	return serving(abs, path, peersFiles{}, candidate{dir, generation})
}

// LoadBundle reads the files of a bundle alone, from the folder that it is to be made of.
func LoadBundle(dir string) (*Config, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, &Error{Faults: []Fault{{Pos: Position{File: dir}, Message: err.Error()}}}
	}
	d := newDecoder(abs)
	c, err := d.load(func() { bundleDecoder{d}.read(abs) })
	if err == nil && c.Site == nil {
		err = c.Err("site", "add site: {name: ..., signers: [...], gateways: [...]}", "the bundle does not say which site it is for")
	}
	return c, err
}

// LoadFleet reads the fleet section of the file at path, and what it needs. It does not read the bundle, which may not be there yet.
// Fleet is nil if the file has none.
func LoadFleet(path string) (*Config, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, &Error{Faults: []Fault{{Pos: Position{File: path}, Message: err.Error()}}}
	}
	d := newDecoder(abs)
	d.read(abs, Position{File: path})
	if c := d.config; c.Fleet == nil || len(d.faults) == 0 {
		placeState(c)
		k := &checker{Config: c}
		k.fleet()
		d.faults = append(d.faults, k.faults...)
	}
	if len(d.faults) > 0 {
		return nil, &Error{Faults: d.inOrder()}
	}
	return d.config, nil
}

// bundleDecoder reads the files of a bundle.
type bundleDecoder struct{ *decoder }

// follow reads the bundle of a gateway's site after the gateway's own file.
func (d bundleDecoder) follow() {
	c := d.config
	if c.Fleet == nil {
		return
	}
	placeState(c)
	if d.candidate.dir == "" {
		accepted, err := bundle.Disk{Dir: c.Fleet.Folder}.Current()
		if errors.Is(err, store.ErrNone) {
			err = ErrNoBundle
			d.faultAt(c.Fleet.Pos, "publish one, and run penstock run, which fetches it", "%v: %s", err, c.Fleet.Site)
			return
		}
		if err != nil {
			d.faultAt(c.Fleet.Pos, "", "read the bundle in %s: %v", c.Fleet.Folder, err)
			return
		}
		d.candidate = candidate{accepted.Dir, accepted.Manifest.Generation}
	}
	c.Fleet.Bundle, c.Fleet.Generation = d.candidate.dir, d.candidate.generation
	changes := d.changes(c.Fleet.ChangesOf(d.candidate.generation))
	d.read(d.candidate.dir)
	for _, change := range changes {
		if !change.Removed {
			d.inBundle = change.file // it names no files
			before := c.Peers.Len()
			d.decode(change.file, textfile.Decode([]byte(change.Entry)))
			if c.Peers.Len() != before+1 || c.Peers.At(before).Name != change.Peer {
				d.faultAt(Position{File: change.file}, "", "a change of peer %s must have this peer and no other", change.Peer)
			}
		}
	}
	d.inBundle = ""
	d.join()
	if c.Site != nil && c.Site.Name != c.Fleet.Site {
		d.faultAt(c.Site.Pos, "", "the bundle is for site %s, and fleet.site is %s", c.Site.Name, c.Fleet.Site)
	}
}

// read reads the files of a bundle in a folder.
func (d bundleDecoder) read(dir string) {
	var files []string
	for _, pattern := range []string{"*.yaml", filepath.Join("peers", "*.yaml")} {
		found, err := filepath.Glob(filepath.Join(escapeGlob(dir), pattern))
		if err == nil && len(found) == 0 && len(files) == 0 {
			err = fmt.Errorf("there is no *.yaml in %s: %w", dir, fs.ErrNotExist)
		}
		if err != nil {
			d.faultAt(Position{File: dir}, "", "%v", err)
			return
		}
		slices.Sort(found)
		files = append(files, found...)
	}
	d.inBundle = dir
	defer func() { d.inBundle = "" }()
	for _, file := range files {
		d.decoder.read(file, Position{File: file})
	}
}

// change is a peer that was changed since the bundle was made.
type change struct {
	*bundle.Change
	file string
}

// changes reads the peers that were changed since the bundle was made. Those of the bundle with their names are left out.
func (d bundleDecoder) changes(dir string) (list []change) {
	files, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*"+ChangeSuffix))
	if err != nil {
		return nil // the pattern is our own
	}
	d.changed = make(map[string]bool)
	slices.Sort(files)
	for _, file := range files {
		text, err := private.Read(file, MaxFile)
		if err == nil {
			c, faulty := bundle.Signed(text).Change()
			if err = faulty; err == nil {
				d.changed[c.Peer] = true
				list = append(list, change{c, file})
				continue
			}
		}
		d.faultAt(Position{File: file}, "remove the file: the store has the change", "%v", err)
	}
	return list
}

// ChangeSuffix ends the names of the files with changes of peers.
const ChangeSuffix = ".change"

// ChangesOf is the folder with the changes of peers that follow a bundle.
func (f *Fleet) ChangesOf(generation uint64) string {
	return filepath.Join(f.Folder, "peers", strconv.FormatUint(generation, 10))
}

// isChanged reports whether a node is a peer of a bundle that was changed since.
func (d bundleDecoder) isChanged(node ast.Node, path string) bool {
	entry, ok := node.(*ast.MappingNode)
	if path != "peers" || !ok || len(d.changed) == 0 || filepath.Ext(d.file) == ChangeSuffix {
		return false
	}
	return slices.ContainsFunc(entry.Values, func(v *ast.MappingValueNode) bool {
		name, _ := scalarText(v.Value)
		return v.Key.GetToken().Value == "name" && d.changed[name]
	})
}

// escapeGlob keeps a path from being a pattern.
func escapeGlob(path string) string {
	return strings.NewReplacer(`*`, `[*]`, `?`, `[?]`, `[`, `[[]`).Replace(path)
}

// belongs notes a section that is in the wrong kind of file, and reports whether it is in the right one.
func (d bundleDecoder) belongs(node ast.Node, path string) bool {
	section, rest, deeper := strings.Cut(path, ".")
	switch {
	case filepath.Ext(d.file) == ChangeSuffix && section != "peers" && section != "version":
		d.fault(node, "", "a change of a peer cannot have %s", section)
	case d.inBundle == "" && path == "site":
		d.fault(node, "put it into the bundle", "site is written in bundles only")
	case d.inBundle != "" && (!slices.Contains(inBundles, section) || deeper && section == "listen" && !isOfSite(rest)):
		d.fault(node, "write it in each gateway's own file", "%s is of one machine, so a bundle cannot have it", path)
	default:
		return true
	}
	return false
}

// isOfSite reports whether what is below listen is the same on all gateways of a site.
func isOfSite(path string) bool {
	port, _, _ := strings.Cut(path, ".")
	return port == "wireguard" || port == "enrol"
}

// within notes a file that a bundle names and does not have.
func (d bundleDecoder) within(node ast.Node, path string) {
	if d.inBundle == "" || path == "" {
		return
	}
	if below, err := filepath.Rel(d.inBundle, path); err != nil || !filepath.IsLocal(below) {
		d.fault(node, "put the file into the bundle, and name it relative to the bundle's folder", "%s is outside of the bundle", path)
	}
}

// fleet checks the settings of a fleet.
func (k *checker) fleet() {
	f := k.Fleet
	if f == nil {
		return
	}
	k.word("fleet.site", f.Site)
	k.word("fleet.gateway", f.Gateway)
	if f.Region != "" {
		k.word("fleet.region", f.Region)
	}
	k.secretPlace("fleet.key", f.Key)
	k.signers("fleet.signers", f.Signers)
	switch n := f.Store.NATS; {
	case f.Store.Dir == "" && n == nil:
		k.fault("fleet.store", "write store: {dir: FOLDER} or store: {nats: {servers: [URL]}}", "fleet.store says not where bundles come from")
	case f.Store.Dir != "" && n != nil:
		k.fault("fleet.store", "keep one of them", "fleet.store has both dir and nats")
	case n != nil:
		k.nats(n)
	}
	if e := f.Endpoint; e.IsValid() && (e.Port() == 0 || e.Addr().IsUnspecified() || e.Addr().IsMulticast() || e.Addr().Zone() != "") {
		k.fault("fleet.endpoint", "write an address of this machine and a free UDP port, for example 192.0.2.1:51821", "fleet.endpoint is %s", e)
	}
	for i, p := range k.Peers.All() {
		if f.Bundle != "" && !f.Has(p.Pos.File) {
			k.fault(fmt.Sprintf("peers[%d]", i), "put it into the bundle", "peer %s is known to this gateway alone, and the gateways of a fleet have the same peers", p.Name)
		}
	}
	if e := k.Listen.Enrol; e != nil && !f.Has(e.Pos.File) {
		k.fault("listen.enrol", "put it into the bundle", "listen.enrol is of this gateway alone, and people join the gateways of a fleet together")
	}
	if f.DrainLimit <= 0 {
		k.fault("fleet.drain_limit", "write a time, for example 1m", "fleet.drain_limit is %v", f.DrainLimit)
	}
}

// nats checks how NATS is reached.
func (k *checker) nats(n *NATS) {
	const path = "fleet.store.nats"
	if len(n.Servers) == 0 {
		k.fault(path+".servers", "write the URL of a server, for example tls://nats.example:4222", "%s.servers is empty", path)
	}
	for i, server := range n.Servers {
		scheme, host, ok := strings.Cut(server, "://")
		if !ok || scheme != "tls" && scheme != "nats" || host == "" || strings.ContainsAny(host, "@/ ") {
			k.fault(fmt.Sprintf("%s.servers[%d]", path, i), "write tls://HOST:PORT or nats://HOST:PORT", "%s.servers[%d] is %q", path, i, server)
		}
	}
	k.secretPlace(path+".credentials", n.Credentials)
	k.secretPlace(path+".nkey", n.NKey)
	k.secretPlace(path+".private_key", n.PrivateKey)
	if !n.Credentials.IsZero() && !n.NKey.IsZero() {
		k.fault(path+".nkey", "keep one of them", "%s has both credentials and nkey", path)
	}
	if (n.Certificate == "") != n.PrivateKey.IsZero() {
		k.fault(path+".certificate", "write both, or neither", "%s has a certificate without a private_key, or the other way round", path)
	}
	if n.Replicas < 1 || n.Replicas > 5 {
		k.fault(path+".replicas", "write 1, 3 or 5", "%s.replicas is %d", path, n.Replicas)
	}
}

// site checks what a bundle says of its site.
func (k *checker) site() {
	s := k.Site
	if s == nil {
		return
	}
	k.word("site.name", s.Name)
	k.signers("site.signers", s.Signers)
	names := make(map[string]bool)
	for i, g := range s.Gateways {
		path := fmt.Sprintf("site.gateways[%d]", i)
		k.word(path+".name", g.Name)
		if names[g.Name] {
			k.fault(path+".name", "rename one of them", "two gateways are called %s", g.Name)
		}
		names[g.Name] = true
		if err := bundle.CheckRecipient(g.Key); err != nil {
			k.fault(path+".key", "write what penstock fleet keygen gateway printed: age1...", "%s.key: %v", path, err)
		}
	}
}

// signers checks public keys of operators.
func (k *checker) signers(path string, keys []string) {
	if len(keys) == 0 {
		k.fault(path, "write what penstock fleet keygen operator printed: ed25519:...", "%s is empty: nobody could sign a bundle", path)
	}
	for i, text := range keys {
		if _, err := bundle.ParsePublicKey(text); err != nil {
			at := fmt.Sprintf("%s[%d]", path, i)
			k.fault(at, "write what penstock fleet keygen operator printed: ed25519:...", "%s: %v", at, err)
		}
	}
}

// word checks a name that becomes part of a key in the store.
func (k *checker) word(path, name string) {
	if name == "" || len(name) > 63 || strings.ContainsFunc(name, func(r rune) bool { return !isNameRune(r) || r == '.' || r == '@' }) {
		k.fault(path, "write up to 63 letters, digits, - and _", "%s is %q", path, name)
	}
}

// bundle returns the bundle that was read.
func bundleOf(c *Config) candidate {
	if c.Fleet == nil {
		return candidate{}
	}
	return candidate{c.Fleet.Bundle, c.Fleet.Generation}
}

// Has reports whether a file is one of a bundle. Without a fleet none is.
func (f *Fleet) Has(file string) bool {
	return f != nil && strings.HasPrefix(file, f.Folder+string(filepath.Separator))
}

// FleetAfter returns old with the bundle of next: the rest of fleet needs a restart.
func FleetAfter(old, next *Fleet) *Fleet {
	if old == nil || next == nil {
		return old
	}
	f := *old
	f.Bundle, f.Generation = next.Bundle, next.Generation
	return &f
}

// Below returns the path of a file of the bundle that was read, below the bundle's folder, and any other text as it is.
func (f *Fleet) Below(file string) string {
	if f == nil || f.Bundle == "" {
		return file
	}
	return strings.TrimPrefix(file, f.Bundle+string(filepath.Separator))
}

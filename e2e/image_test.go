package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"penstock/e2e/netlab"
)

// imageUser is the user of the image, whom a container engine takes where nobody else is named.
const imageUser = 65532

// imageConfig is what a container engine reads of an image.
type imageConfig struct {
	Architecture string
	Config       struct {
		User            string
		Env, Entrypoint []string
		Cmd             []string
		Healthcheck     struct{ Test []string }
		Labels          map[string]string
	}
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	}
}

// unpack follows the OCI layout in an archive from its index to the image for this machine, and unpacks its layers into dir as root.
func unpack(t *testing.T, archive, dir string) imageConfig {
	t.Helper()
	layout := t.TempDir()
	extract(t, archive, layout)
	type reference struct {
		MediaType, Digest string
		Size              int64
		Platform          struct{ Architecture string }
	}
	blob := func(r reference) []byte {
		content, err := os.ReadFile(filepath.Join(layout, "blobs", strings.Replace(r.Digest, ":", "/", 1)))
		if err != nil {
			t.Fatal(err)
		}
		if sum := digestOf(content); sum != r.Digest || int64(len(content)) != r.Size {
			t.Fatalf("a blob of %d bytes has %s, want %d bytes and %s", len(content), sum, r.Size, r.Digest)
		}
		return content
	}
	decode := func(content []byte, into any) {
		if err := json.Unmarshal(content, into); err != nil {
			t.Fatal(err)
		}
	}
	var index struct{ Manifests []reference }
	top, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	for decode(top, &index); len(index.Manifests) > 0 && strings.Contains(index.Manifests[0].MediaType, "index"); {
		content := blob(index.Manifests[0])
		index.Manifests = nil
		decode(content, &index)
	}
	var manifest struct {
		Config reference
		Layers []reference
	}
	for _, m := range index.Manifests {
		if m.Platform.Architecture == runtime.GOARCH {
			decode(blob(m), &manifest)
		}
	}
	var config imageConfig
	decode(blob(manifest.Config), &config)
	if len(manifest.Layers) == 0 || len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		t.Fatalf("the image has %d layers and %d checksums of layers, want as many", len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	for i, l := range manifest.Layers {
		z, err := gzip.NewReader(bytes.NewReader(blob(l)))
		if err != nil {
			t.Fatal(err)
		}
		layer, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		if sum := digestOf(layer); sum != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d has the checksum %s, want %s", i, sum, config.RootFS.DiffIDs[i])
		}
		untar(t, bytes.NewReader(layer), dir)
	}
	return config
}

func digestOf(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

// extract unpacks a tar file.
func extract(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	untar(t, f, dir)
}

// untar unpacks files and folders with their owners, if the test runs as root.
func untar(t *testing.T, from io.Reader, dir string) {
	t.Helper()
	for r := tar.NewReader(from); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o700)
		case tar.TypeReg:
			var content []byte
			if content, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, content, 0o600)
			}
		default:
			t.Fatalf("%s is neither a file nor a folder", h.Name)
		}
		if err == nil && os.Geteuid() == 0 {
			err = os.Chown(path, h.Uid, h.Gid)
		}
		if err == nil {
			err = os.Chmod(path, h.FileInfo().Mode())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// container is a penstock in the file system of the image.
type container struct {
	*penstock
	image imageConfig
	as    string // UID
}

// contain runs the image on a host as a container engine would: as a user, with at most these capabilities, with the image's
// environment and a few more variables, with its own /proc, the host's resolver file, and a folder of the world as /etc/penstock.
// CAP_SYS_CHROOT is there too, because chroot(1) needs it.
func (w *world) contain(t *testing.T, h *netlab.Host, archive, folder string, uid int, capabilities string, environment ...string) *container {
	t.Helper()
	root := filepath.Join(w.dir, "root-"+h.Name())
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &container{image: unpack(t, archive, root), as: fmt.Sprint(uid)}
	err := filepath.Walk(w.path(folder), func(path string, info os.FileInfo, err error) error {
		mode := os.FileMode(0o640)
		if err == nil && info.IsDir() {
			mode = 0o750
		}
		return errors.Join(err, os.Chown(path, 0, imageUser), os.Chmod(path, mode))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, made := range []string{"etc/resolv.conf", "dev/net/tun"} { // where an engine mounts
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(root, made)), 0o755), os.WriteFile(filepath.Join(root, made), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	become := ""
	if uid != 0 { // which takes away what is in effect
		become, capabilities = fmt.Sprintf("--userspec=%d:%d", uid, uid), capabilities+",+setuid,+setgid"
	}
	// PATH is that of setpriv and chroot: the image has no program that would need one.
	variables := slices.Concat(c.image.Config.Env, environment, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"})
	script := fmt.Sprintf(`#!/bin/sh
set -e
cd %s
mount --rbind /proc proc
mount --bind /etc/resolv.conf etc/resolv.conf
mount --bind /dev/net/tun dev/net/tun
mount --bind %s etc/penstock
exec env -i %s setpriv --clear-groups --bounding-set=-all,+sys_chroot%s --inh-caps=-all --no-new-privs chroot %s . %s
`, root, w.path(folder), strings.Join(variables, " "), capabilities, become,
		strings.Join(slices.Concat(c.image.Config.Entrypoint, c.image.Config.Cmd), " "))
	launch := w.path("launch-" + h.Name())
	if err := os.WriteFile(launch, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	enter := w.path("enter-" + h.Name())
	if err := os.WriteFile(enter, []byte("#!/bin/sh\nexec unshare --mount "+launch+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c.penstock = &penstock{host: h, binary: enter, config: "image", socket: filepath.Join(root, "run/penstock/control.sock")}
	t.Cleanup(func() {
		if c.over != nil {
			c.stop(t, syscall.SIGTERM)
		}
		if t.Failed() {
			t.Logf("the container on %s said:\n%s", h.Name(), c.said.String())
		}
	})
	c.start(t)
	return c
}

// healthy runs the image's health check in the container, as an engine does.
func (c *container) healthy(t *testing.T) result {
	t.Helper()
	test := c.image.Config.Healthcheck.Test
	if len(test) < 2 || test[0] != "CMD" {
		t.Fatalf("the health check is %q, want a command without a shell", test)
	}
	args := append([]string{"-i"}, c.image.Config.Env...)
	args = append(args, "nsenter", "--target", fmt.Sprint(c.cmd.Process.Pid), "--mount", "--root", "--wd", "--setuid", c.as, "--setgid", c.as)
	return run(t, c.host, "env", append(args, test[1:]...)...)
}

// runsAs wants that the process has this user and no capability in effect but these.
func (c *container) runsAs(t *testing.T, uid, capabilities string) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nUid:\t" + uid + "\t", "\nCapEff:\t" + capabilities + "\n", "\nNoNewPrivs:\t1\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the process in the image has no %q:\n%s", want, status)
		}
	}
}

// laptop: [image: penstock with CAP_NET_ADMIN], curl beside it === WireGuard ===> gateway: [image: penstock without any] --- intranet
func TestTheImageRuns(t *testing.T) {
	t.Parallel()
	needsOthers(t) // the image has users of its own
	for _, name := range []string{"setpriv", "nsenter", "unshare"} {
		program(t, name)
	}
	archive := release(t, "*_oci.tar")
	w := newWorld(t)
	for _, dir := range []string{"gw/peers.d", "lt"} {
		if err := os.MkdirAll(w.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	key := strings.TrimSpace(w.read(t, "gateway.key"))
	w.write(t, "gw/config.yaml", strings.Replace(w.read(t, "gateway.yaml"), "{file: gateway.key}", "{env: GATEWAY_SECRET}", 1))
	w.write(t, "lt/config.yaml", strings.Replace(w.read(t, "laptop.yaml"), ", state_file: "+w.dir+"/host.json", "", 1))
	for _, name := range []string{"corp.conf", "gambling.txt", "adult.hosts"} {
		w.write(t, "lt/"+name, w.read(t, name))
	}
	clean := run(t, w.Laptop, "sh", "-c", "ip rule; ip -6 rule; ip -o link; nft list ruleset; cat /etc/resolv.conf").stdout

	gateway := w.contain(t, w.Gateway, archive, "gw", imageUser, "", "GATEWAY_SECRET="+key)
	gateway.runsAs(t, fmt.Sprint(imageUser), "0000000000000000")
	sidecar := w.contain(t, w.Laptop, archive, "lt", 0, ",+net_admin")
	sidecar.runsAs(t, "0", "0000000000041000") // NET_ADMIN, and SYS_CHROOT by chroot(1)
	for _, c := range []*container{gateway, sidecar} {
		eventually(t, c.host.Name()+"'s container is healthy", func() error {
			if r := c.healthy(t); r.code != 0 {
				return fmt.Errorf("health check: %s", r)
			}
			return nil
		})
	}
	for url, want := range map[string]string{"http://intranet.corp.example/": "this is intranet.corp.example\n", "http://news.example/": "this is news.example\n"} {
		eventually(t, "a program beside the container gets "+url, func() error {
			if r := run(t, w.Laptop, "curl", "-sS", "-m", "10", url); r.stdout != want {
				return fmt.Errorf("got %s, want %q", r, want)
			}
			return nil
		})
	}
	if r := run(t, w.Laptop, "curl", "-sS", "-m", "10", "http://casino.example/"); r.code == 0 {
		t.Errorf("a gambling site: got %s, want a refusal", r)
	}
	sidecar.stop(t, syscall.SIGTERM)
	if now := run(t, w.Laptop, "sh", "-c", "ip rule; ip -6 rule; ip -o link; nft list ruleset; cat /etc/resolv.conf").stdout; now != clean {
		t.Errorf("after the container the host is not as it was (- before, + now):\n%s", difference(clean, now))
	}
	root := w.path("root-" + w.Gateway.Name())
	for _, none := range []string{"bin/sh", "usr/bin/sh"} {
		if _, err := os.Stat(filepath.Join(root, none)); err == nil {
			t.Errorf("the image has %s, want no shell", none)
		}
	}
	if certificates, err := os.ReadFile(filepath.Join(root, "etc/ssl/certs/ca-certificates.crt")); err != nil || !bytes.Contains(certificates, []byte("BEGIN CERTIFICATE")) {
		t.Errorf("the image has no certificates of authorities: %v", err)
	}
}

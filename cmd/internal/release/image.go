package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// user is who runs a gateway in a container. The number is one that distributions leave free.
const user = 65532

// The media types of an image (OCI image specification 1.1).
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// descriptor points to a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// image is that of one architecture.
type image struct {
	manifest descriptor
	blobs    map[string][]byte // by digest
}

// add adds a blob.
func (i *image) add(mediaType string, content []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: digest(content), Size: len(content)}
	i.blobs[d.Digest] = content
	return d
}

func digest(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

// labels say what an image is.
func (o *order) labels() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       "penstock",
		"org.opencontainers.image.description": "VPN endpoint that judges every flow",
		"org.opencontainers.image.version":     o.Version,
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.created":     o.epoch.Format(time.RFC3339),
	}
}

// image makes the image of one architecture: a single layer with the program, certificates and empty folders. There is no shell.
func (o *order) image(b build) (image, error) {
	layer, err := o.rootfs(b)
	if err != nil {
		return image{}, err
	}
	i := image{blobs: make(map[string][]byte)}
	// The best compression of a program takes three times as long and saves 0.4 %.
	packed := i.add(typeLayer, squeeze(layer, gzip.DefaultCompression))
	created := o.epoch.Format(time.RFC3339)
	config, err := json.Marshal(map[string]any{
		"created": created, "architecture": b.arch, "os": "linux",
		"config": map[string]any{
			"User":         fmt.Sprintf("%d:%d", user, user),
			"ExposedPorts": map[string]any{"51820/udp": struct{}{}},
			"Env": []string{
				"PATH=/usr/bin", "HOME=/var/lib/penstock", "SSL_CERT_FILE=/" + certificates,
				"PENSTOCK_CONFIG=/etc/penstock/config.yaml", "PENSTOCK_SOCKET=/run/penstock/control.sock", "STATE_DIRECTORY=/var/lib/penstock",
			},
			"Entrypoint": []string{"/usr/bin/penstock"},
			"Cmd":        []string{"run"},
			"Volumes":    map[string]any{"/var/lib/penstock": struct{}{}},
			"WorkingDir": "/",
			"StopSignal": "SIGTERM",
			"Labels":     o.labels(),
			// Not of the specification: what Docker and those like it read.
			"Healthcheck": map[string]any{"Test": []string{"CMD", "/usr/bin/penstock", "status"}, "Interval": 30 * time.Second, "Timeout": 10 * time.Second, "StartPeriod": 30 * time.Second, "Retries": 3},
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
		"history": []any{map[string]any{"created": created, "created_by": "penstock release"}},
	})
	if err != nil {
		return image{}, err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest, "config": i.add(typeConfig, config), "layers": []descriptor{packed}, "annotations": o.labels(),
	})
	if err != nil {
		return image{}, err
	}
	i.manifest = i.add(typeManifest, manifest)
	i.manifest.Platform = &platform{Architecture: b.arch, OS: "linux"}
	return i, nil
}

// certificates is where the image has those of the authorities.
const certificates = "etc/ssl/certs/ca-certificates.crt"

// rootfs is the file system of an image. What penstock writes to belongs to root and to the group of user: a gateway is the one, and
// a sidecar the other, which has no capability to write to what is not its own.
func (o *order) rootfs(b build) ([]byte, error) {
	authorities, err := os.ReadFile(o.CA)
	if err != nil || !bytes.Contains(authorities, []byte("BEGIN CERTIFICATE")) {
		return nil, errors.Join(fmt.Errorf("certificates of the image: %s has none: install ca-certificates, or name another file with -ca", o.CA), err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(name string, mode int64, gid int, content []byte) {
		h := &tar.Header{Name: name, Mode: mode, Gid: gid, Size: int64(len(content)), ModTime: o.epoch, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		err = errors.Join(err, w.WriteHeader(h))
		_, writeErr := w.Write(content)
		err = errors.Join(err, writeErr)
	}
	for _, dir := range []string{"dev/", "etc/", "etc/ssl/", "etc/ssl/certs/", "proc/", "run/", "sys/", "usr/", "usr/bin/", "usr/share/", "usr/share/doc/", "usr/share/doc/penstock/", "var/", "var/lib/"} {
		add(dir, 0o755, 0, nil)
	}
	add("tmp/", 0o1777, 0, nil)
	add("etc/penstock/", 0o750, user, nil)
	add("run/penstock/", 0o770, user, nil)
	add("var/lib/penstock/", 0o770, user, nil)
	add("etc/passwd", 0o644, 0, fmt.Appendf(nil, "root:x:0:0:root:/root:/sbin/nologin\npenstock:x:%d:%d:penstock:/var/lib/penstock:/sbin/nologin\n", user, user))
	add("etc/group", 0o644, 0, fmt.Appendf(nil, "root:x:0:\npenstock:x:%d:\n", user))
	add(certificates, 0o644, 0, authorities)
	add("usr/share/doc/penstock/THIRD-PARTY.gz", 0o644, 0, squeeze(notices(b.modules), gzip.BestCompression))
	add("usr/share/doc/penstock/sbom.cdx.json", 0o644, 0, b.sbom)
	add("usr/bin/penstock", 0o755, 0, b.program)
	if err != nil {
		return nil, err
	}
	return buf.Bytes(), w.Close()
}

// layout writes the images as an OCI image layout in a tar, which podman, docker and skopeo read.
func (o *order) layout(images []image) error {
	blobs := make(map[string][]byte)
	var manifests []descriptor
	for _, i := range images {
		maps.Copy(blobs, i.blobs)
		manifests = append(manifests, i.manifest)
	}
	all, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": manifests, "annotations": o.labels()})
	if err != nil {
		return err
	}
	blobs[digest(all)] = all
	top, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": []descriptor{{
		MediaType: typeIndex, Digest: digest(all), Size: len(all),
		Annotations: map[string]string{"org.opencontainers.image.ref.name": strings.ReplaceAll(o.Version, "+", "-"), "io.containerd.image.name": "localhost/penstock:" + strings.ReplaceAll(o.Version, "+", "-")},
	}}})
	if err != nil {
		return err
	}
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": top}
	for name, content := range blobs {
		files["blobs/"+strings.Replace(name, ":", "/", 1)] = content
	}
	out, err := os.OpenFile(filepath.Join(o.Out, "penstock_"+o.Version+"_oci.tar"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: dir, Mode: 0o755, ModTime: o.epoch, Typeflag: tar.TypeDir}))
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: o.epoch, Typeflag: tar.TypeReg}))
		_, writeErr := w.Write(files[name])
		err = errors.Join(err, writeErr)
	}
	return errors.Join(err, w.Close(), out.Close())
}

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"penstock/cmd/internal/manual"
)

// file is a file of a package, or a folder if it has no content.
type file struct {
	path    string
	mode    fs.FileMode
	content []byte
	not     string // the format that it is left out of
	only    string // the only format that it is for
}

// suits tells whether a file belongs into packages of a format.
func (f file) suits(format string) bool {
	return f.not != format && (f.only == "" || f.only == format)
}

const docDir = "/usr/share/doc/penstock/"

// files are those of a package.
func (o *order) files(ctx context.Context, b build) ([]file, error) {
	files := []file{
		{path: "/usr/bin/penstock", mode: 0o755, content: b.program},
		{path: "/etc/penstock", mode: 0o750},
		{path: docDir + "THIRD-PARTY.gz", mode: 0o644, content: squeeze(notices(b.modules), gzip.BestCompression)},
		{path: docDir + "sbom.cdx.json", mode: 0o644, content: b.sbom},
		{path: docDir + "changelog.gz", mode: 0o644, content: squeeze(o.changelog(), gzip.BestCompression), only: "deb"},
	}
	for _, path := range slices.Sorted(maps.Keys(b.pages)) {
		files = append(files, file{path: path, mode: 0o644, content: b.pages[path]})
	}
	for _, from := range []struct{ from, to, not, only string }{
		{"deploy/penstock.service", "/usr/lib/systemd/system/penstock.service", "apk", ""},
		{"deploy/penstock-lockdown.service", "/usr/lib/systemd/system/penstock-lockdown.service", "apk", ""},
		{"deploy/penstock.sysusers.conf", "/usr/lib/sysusers.d/penstock.conf", "apk", ""},
		{"deploy/penstock-gateway.conf", docDir + "examples/penstock-gateway.conf", "apk", ""},
		{"deploy/penstock-gateway-kernel.conf", docDir + "examples/penstock-gateway-kernel.conf", "apk", ""},
		{"deploy/penstock.schema.json", "/usr/share/penstock/penstock.schema.json", "", ""},
		{"deploy/penstock-notices.service", "/usr/lib/systemd/user/penstock-notices.service", "apk", ""},
		{"deploy/alerts.yml", docDir + "examples/alerts.yml", "", ""},
		{"deploy/grafana-dashboard.json", docDir + "examples/grafana-dashboard.json", "", ""},
		{"deploy/packages/copyright", docDir + "copyright", "", "deb"},
		{"deploy/packages/lintian-overrides", "/usr/share/lintian/overrides/penstock", "", "deb"},
		{"LICENSE", "/usr/share/licenses/penstock/LICENSE", "deb", ""},
	} {
		content, err := os.ReadFile(filepath.Join(o.Root, from.from))
		if err != nil {
			return nil, err
		}
		files = append(files, file{path: from.to, mode: 0o644, content: content, not: from.not, only: from.only})
	}
	docs, err := filepath.Glob(filepath.Join(o.Root, "docs", "*.md"))
	if err != nil || len(docs) == 0 {
		return nil, fmt.Errorf("docs: there are no documents: %w", err)
	}
	for _, path := range append(docs, filepath.Join(o.Root, "README.md")) {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		files = append(files, file{path: docDir + filepath.Base(path), mode: 0o644, content: content})
		if filepath.Base(path) == "README.md" {
			for _, name := range []string{"laptop", "gateway"} {
				example, err := block(string(content), "yaml "+name)
				if err != nil {
					return nil, err
				}
				files = append(files, file{path: docDir + "examples/" + name + ".yaml", mode: 0o644, content: []byte(example)})
			}
		}
	}
	return files, nil
}

// block returns the fenced block with this heading.
func block(text, heading string) (string, error) {
	_, rest, ok := strings.Cut(text, "```"+heading+"\n")
	body, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		return "", fmt.Errorf("README.md has no block %q", heading)
	}
	return body, nil
}

// pages are the man pages and completions, which a penstock of this machine writes.
func (o *order) pages(ctx context.Context, program, dir string) (map[string][]byte, error) {
	program, err := filepath.Abs(program)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if _, err := o.run(ctx, program, "manual", dir); err != nil {
		return nil, err
	}
	pages := make(map[string][]byte)
	written, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range written {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		pages["/usr/share/man/man1/"+e.Name()+".gz"] = squeeze(text, gzip.BestCompression)
	}
	reference, err := os.ReadFile(filepath.Join(o.Root, "docs", "configuration.md"))
	if err != nil {
		return nil, err
	}
	title := manual.Title{Name: "penstock.yaml", Section: 5, About: "configuration of penstock", Version: o.Version, Date: o.epoch}
	page := manual.FromMarkdown(title, madeFrom().ReplaceAllString(string(reference), ""))
	pages["/usr/share/man/man5/penstock.yaml.5.gz"] = squeeze(page.Bytes(), gzip.BestCompression)
	for shell, path := range map[string]string{
		"bash": "/usr/share/bash-completion/completions/penstock",
		"zsh":  "/usr/share/zsh/vendor-completions/_penstock",
		"fish": "/usr/share/fish/vendor_completions.d/penstock.fish",
	} {
		script, err := o.run(ctx, program, "completion", shell)
		if err != nil {
			return nil, err
		}
		pages[path] = []byte(script + "\n")
	}
	return pages, nil
}

// madeFrom is the paragraph that tells developers where the reference comes from.
func madeFrom() *regexp.Regexp { return regexp.MustCompile(`(?m)^Made from the source by .*\n\n`) }

// changelog is Debian's, with one entry.
func (o *order) changelog() []byte {
	return fmt.Appendf(nil, "penstock (%s) unstable; urgency=medium\n\n  * Version %s. What is new is in the repository's history.\n\n -- %s  %s\n",
		debianVersion(o.Version), o.Version, o.Maintainer, o.epoch.Format(time.RFC1123Z))
}

// debianVersion is a version as nfpm writes it into a Debian package: one before a release sorts before it.
func debianVersion(version string) string { return strings.Replace(version, "-", "~", 1) }

// alpineVersion is a version as apk orders it: 1.2.3_rc1 for 1.2.3-rc.1, and 1.2.3_p4 for the fourth commit since 1.2.3.
func alpineVersion(version string) string {
	m := regexp.MustCompile(`^([0-9.]+)(?:-(alpha|beta|pre|rc)\.?([0-9]*))?[^+]*(?:\+([0-9]+))?`).FindStringSubmatch(version)
	text := m[1]
	if m[2] != "" {
		text += "_" + m[2] + m[3]
	}
	if m[4] != "" {
		text += "_p" + m[4]
	}
	return text
}

// squeeze compresses so that the result depends on the text alone.
func squeeze(text []byte, level int) []byte {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		panic(err) // the levels are those of the package
	}
	w.Write(text) // a buffer takes everything
	w.Close()
	return b.Bytes()
}

// pack makes one package.
func (o *order) pack(ctx context.Context, work, format, arch string, files []file) error {
	stage := filepath.Join(work, format)
	err := os.MkdirAll(stage, 0o755)
	if err != nil {
		return err
	}
	type info struct {
		Mode  fs.FileMode `json:"mode"`
		Owner string      `json:"owner"`
		Group string      `json:"group"`
		MTime string      `json:"mtime"`
	}
	type content struct {
		Src  string `json:"src,omitempty"`
		Dst  string `json:"dst"`
		Type string `json:"type,omitempty"`
		Info info   `json:"file_info"`
	}
	var contents []content
	mtime := o.epoch.Format(time.RFC3339)
	for _, f := range files {
		if !f.suits(format) {
			continue
		}
		c := content{Dst: f.path, Info: info{Mode: f.mode, Owner: "root", Group: "root", MTime: mtime}}
		if f.content == nil {
			c.Type = "dir"
		} else {
			c.Src = filepath.Join(stage, f.path)
			if err := os.MkdirAll(filepath.Dir(c.Src), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(c.Src, f.content, f.mode); err != nil {
				return err
			}
		}
		contents = append(contents, c)
	}
	// nfpm dates a script of an Alpine package like the file, so that file is a copy with the right date.
	script := func(name string) string {
		path := filepath.Join(stage, name)
		text, readErr := os.ReadFile(filepath.Join(o.Root, "deploy", "packages", format+"."+name))
		err = errors.Join(err, readErr, os.WriteFile(path, text, 0o644), os.Chtimes(path, o.epoch, o.epoch))
		return path
	}
	settings := map[string]any{
		"name": "penstock", "arch": arch, "platform": "linux", "version": o.Version, "version_schema": "semver",
		"section": "net", "priority": "optional", "maintainer": o.Maintainer, "license": "Apache-2.0", "mtime": mtime,
		"description": "VPN endpoint that judges every flow\n" + strings.TrimSpace(about),
		"contents":    contents,
		"rpm":         map[string]any{"buildhost": "penstock", "group": "Applications/Internet"},
		"deb":         map[string]any{"compression": "gzip"},
	}
	switch format {
	case "deb":
		settings["scripts"] = map[string]string{"postinstall": script("postinst"), "preremove": script("prerm"), "postremove": script("postrm")}
		settings["depends"] = []string{"systemd | systemd-standalone-sysusers | adduser"}
		settings["recommends"] = []string{"ca-certificates"}
	case "rpm":
		settings["scripts"] = map[string]string{"postinstall": script("post"), "preremove": script("preun"), "postremove": script("postun")}
		settings["recommends"] = []string{"ca-certificates"}
	case "apk":
		settings["version"], settings["version_schema"] = alpineVersion(o.Version), "none"
		settings["scripts"] = map[string]string{"postinstall": script("post-install"), "preremove": script("pre-deinstall")}
		settings["depends"] = []string{"ca-certificates-bundle"}
	}
	text, marshalErr := json.Marshal(settings) // JSON is YAML
	if err = errors.Join(err, marshalErr); err != nil {
		return err
	}
	path := filepath.Join(work, format+".yaml")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return err
	}
	out, err := filepath.Abs(o.Out)
	if err != nil {
		return err
	}
	tool := []string{"go", "tool", "-modfile=.ci/tools.mod", "nfpm"}
	if o.Tool != "" {
		tool = []string{o.Tool}
	}
	_, err = o.run(ctx, tool[0], append(tool[1:], "package", "--config", path, "--packager", format, "--target", out)...)
	return err
}

// about is the description of the packages behind their first line.
const about = `
penstock takes the packets of this machine or of WireGuard peers, judges
every flow by rules, and refuses it or sends it out directly or through an
encrypted transport. It filters by name and address, resolves DNS through
the VPN, and has metrics, a flow log and reloads without interruption.
`

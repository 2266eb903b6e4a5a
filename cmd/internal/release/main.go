// Command release makes what people install: packages for Debian, Fedora and Alpine, and a container image, with a list of what is
// in them (SBOM) and checksums.
//
//	go run ./cmd/internal/release -version 1.2.3 -out dist
//
// Two runs on the same commit make the same bytes. It publishes and signs nothing.
package main

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tag is the build tag that leaves out what only the source is for: the NATS server of the demo of a fleet.
const tag = "release"

// order is what is made.
type order struct {
	Root       string   // of the repository
	Out        string   // folder of what is made
	Version    string   // 1.2.3; empty: what git says
	Archs      []string // values of GOARCH
	Formats    []string // deb, rpm, apk, oci
	Binary     string   // a penstock that is built already, for a single architecture
	CA         string   // file with the certificates of the image
	Maintainer string   // Name <address>
	Tool       string   // nfpm, if it is built already

	epoch time.Time // of every file
}

func main() {
	o := order{Root: "."}
	var archs, formats string
	flag.StringVar(&o.Out, "out", "dist", "`FOLDER` for what is made; it must be empty or new")
	flag.StringVar(&o.Version, "version", "", "version, for example 1.2.3 (default what git describes)")
	flag.StringVar(&archs, "arch", "amd64,arm64", "architectures, as Go calls them")
	flag.StringVar(&formats, "formats", "deb,rpm,apk,oci", "what to make")
	flag.StringVar(&o.Binary, "binary", "", "package this penstock instead of building one; with a single -arch")
	flag.StringVar(&o.CA, "ca", "/etc/ssl/certs/ca-certificates.crt", "`FILE` with the certificates of authorities, for the image")
	flag.StringVar(&o.Maintainer, "maintainer", "The penstock authors <packages@penstock.example>", "who answers for the packages")
	flag.StringVar(&o.Tool, "nfpm", "", "nfpm `PROGRAM` (default the one of .ci/tools.mod)")
	flag.Parse()
	o.Archs, o.Formats = strings.Split(archs, ","), strings.Split(formats, ",")
	if err := o.make(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// make makes everything.
func (o *order) make(ctx context.Context) error {
	if err := o.check(); err != nil {
		return err
	}
	if err := o.date(ctx); err != nil {
		return err
	}
	if err := o.describe(ctx); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "penstock-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	var images []image
	for _, arch := range o.Archs {
		b, err := o.build(ctx, work, arch)
		if err != nil {
			return err
		}
		files, err := o.files(ctx, b)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(o.Out, fmt.Sprintf("penstock_%s_linux_%s.cdx.json", o.Version, arch)), b.sbom, 0o644); err != nil {
			return err
		}
		for _, format := range o.Formats {
			if format == "oci" {
				made, err := o.image(b)
				if err != nil {
					return err
				}
				images = append(images, made)
			} else if err := o.pack(ctx, filepath.Join(work, arch), format, arch, files); err != nil {
				return fmt.Errorf("%s for %s: %w", format, arch, err)
			}
		}
	}
	if len(images) > 0 {
		if err := o.layout(images); err != nil {
			return err
		}
	}
	return o.sum()
}

// check refuses an order that cannot be carried out, before anything is built.
func (o *order) check() error {
	for _, format := range o.Formats {
		if !slices.Contains([]string{"deb", "rpm", "apk", "oci"}, format) {
			return fmt.Errorf("-formats: there is no format %q: use deb, rpm, apk and oci", format)
		}
	}
	for _, arch := range o.Archs {
		if !slices.Contains([]string{"amd64", "arm64"}, arch) {
			return fmt.Errorf("-arch: %q is not built: use amd64 and arm64", arch)
		}
	}
	if o.Binary != "" && len(o.Archs) != 1 {
		return fmt.Errorf("-binary needs one -arch, and there are %d", len(o.Archs))
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return err
	}
	left, err := os.ReadDir(o.Out)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("-out: %s is not empty: it has %s", o.Out, left[0].Name())
	}
	return nil
}

// date takes the time of all files from SOURCE_DATE_EPOCH, or from the commit.
func (o *order) date(ctx context.Context) error {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		var err error
		if text, err = o.run(ctx, "git", "log", "-1", "--format=%ct"); err != nil {
			return fmt.Errorf("which date? without git, set SOURCE_DATE_EPOCH: %w", err)
		}
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH is %q: set it to seconds since 1970", text)
	}
	o.epoch = time.Unix(seconds, 0).UTC()
	return nil
}

// describe finds the version if it is not given: that of the tag v1.2.3, and behind another commit the number of commits since.
func (o *order) describe(ctx context.Context) error {
	if o.Version == "" {
		text, err := o.run(ctx, "git", "describe", "--tags", "--long", "--dirty", "--match", "v[0-9]*")
		if err != nil {
			count, countErr := o.run(ctx, "git", "rev-list", "--count", "HEAD")
			hash, hashErr := o.run(ctx, "git", "describe", "--always", "--dirty")
			if countErr != nil || hashErr != nil {
				return fmt.Errorf("which version? without git, name it with -version: %w", err)
			}
			text = "v0.0.0-" + count + "-g" + hash
		}
		if o.Version, err = fromDescription(text); err != nil {
			return err
		}
	}
	o.Version = strings.TrimPrefix(o.Version, "v")
	for _, r := range o.Version {
		if !strings.ContainsRune("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.+-", r) {
			return fmt.Errorf("-version: %q has %q: write a version such as 1.2.3 or 1.2.3-rc.1", o.Version, r)
		}
	}
	if o.Version == "" || o.Version[0] < '0' || o.Version[0] > '9' {
		return fmt.Errorf("-version: %q does not begin with a number: write a version such as 1.2.3", o.Version)
	}
	return nil
}

// fromDescription makes a version of what git describe --long says: v1.2.3-4-gabcdef[-dirty].
func fromDescription(text string) (string, error) {
	clean, isDirty := strings.CutSuffix(text, "-dirty")
	parts := strings.Split(clean, "-")
	if len(parts) < 3 {
		return "", fmt.Errorf("git describes this commit as %q, which is no version: name it with -version", text)
	}
	tag, count, hash := strings.Join(parts[:len(parts)-2], "-"), parts[len(parts)-2], parts[len(parts)-1]
	version := strings.TrimPrefix(tag, "v")
	if count != "0" || isDirty {
		version += "+" + count + "." + hash
	}
	if isDirty {
		version += ".dirty"
	}
	return version, nil
}

// build is a program with what is told of it.
type build struct {
	arch    string
	program []byte
	path    string
	pages   map[string][]byte // man pages and completions, by their path in a package
	modules []module
	sbom    []byte
}

// build builds penstock for an architecture, and one for this machine, which writes the pages.
func (o *order) build(ctx context.Context, work, arch string) (build, error) {
	dir := filepath.Join(work, arch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return build{}, err
	}
	b := build{arch: arch, path: o.Binary}
	author := o.Binary
	if o.Binary == "" {
		b.path = filepath.Join(dir, "penstock")
		if err := o.compile(ctx, b.path, "linux", arch); err != nil {
			return build{}, err
		}
		author = filepath.Join(work, "author")
		if _, err := os.Stat(author); err != nil {
			if err := o.compile(ctx, author, "", ""); err != nil {
				return build{}, err
			}
		}
	}
	var err error
	if b.program, err = os.ReadFile(b.path); err != nil {
		return build{}, err
	}
	if err := isStatic(b.path); err != nil {
		return build{}, err
	}
	if b.pages, err = o.pages(ctx, author, filepath.Join(dir, "man")); err != nil {
		return build{}, err
	}
	if b.modules, err = o.modules(ctx, b.path); err != nil {
		return build{}, err
	}
	b.sbom, err = o.bill(b)
	return b, err
}

// isStatic refuses a program that needs libraries of the system: an image has none, and other distributions have others.
func isStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s is no program for Linux: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s needs libraries of the system: build it with CGO_ENABLED=0", path)
		}
	}
	return nil
}

// compile builds penstock so that the result depends on the source alone. Empty names are this machine's.
func (o *order) compile(ctx context.Context, to, goos, goarch string) error {
	to, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	flags := fmt.Sprintf("-ldflags=-s -w -buildid= -X main.release=%s -X penstock/cmd/internal/doctor.release=%d", o.Version, o.epoch.Unix())
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", tag, "-trimpath", "-buildvcs=false", flags, "-o", to, "./cmd/penstock")
	cmd.Dir = o.Root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=")
	if goos != "" {
		cmd.Env = append(cmd.Env, "GOOS="+goos, "GOARCH="+goarch)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build penstock for %s: %w\n%s", goarch, err, out)
	}
	return nil
}

// run runs a program in the repository and returns what it prints.
func (o *order) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = o.Root
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(max(o.epoch.Unix(), 0), 10))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// sum writes the checksums of everything that was made, in the form of sha256sum.
func (o *order) sum() error {
	var lines []string
	err := filepath.WalkDir(o.Out, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(o.Out, path)
		lines = append(lines, fmt.Sprintf("%x  %s\n", sha256.Sum256(content), filepath.ToSlash(name)))
		return err
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.Out, "SHA256SUMS"), []byte(strings.Join(lines, "")), 0o644)
}

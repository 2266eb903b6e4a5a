package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestVersions(t *testing.T) {
	for _, row := range []struct{ git, version, alpine, debian string }{
		{"v1.2.3-0-gabc1234", "1.2.3", "1.2.3", "1.2.3"},
		{"v1.2.3-4-gabc1234", "1.2.3+4.gabc1234", "1.2.3_p4", "1.2.3+4.gabc1234"},
		{"v1.2.3-rc.1-0-gabc1234", "1.2.3-rc.1", "1.2.3_rc1", "1.2.3~rc.1"},
		{"v1.2.3-rc.1-7-gabc1234-dirty", "1.2.3-rc.1+7.gabc1234.dirty", "1.2.3_rc1_p7", "1.2.3~rc.1+7.gabc1234.dirty"},
		{"v0.0.0-707-gabc1234", "0.0.0+707.gabc1234", "0.0.0_p707", "0.0.0+707.gabc1234"},
	} {
		version, err := fromDescription(row.git)
		if err != nil || version != row.version || alpineVersion(version) != row.alpine || debianVersion(version) != row.debian {
			t.Errorf("%s: got %s, for Alpine %s, for Debian %s, error %v, want %s, %s and %s",
				row.git, version, alpineVersion(version), debianVersion(version), err, row.version, row.alpine, row.debian)
		}
	}
	for _, bad := range []string{"abc1234", "one; two", "x1"} {
		o := order{Version: bad}
		if err := o.describe(t.Context()); err == nil {
			t.Errorf("version %q: got no error", bad)
		}
	}
}

func TestLicenses(t *testing.T) {
	for want, text := range map[string]string{
		"MIT":          "Permission is hereby granted, free\nof charge, to any person",
		"BSD-3-Clause": "Redistribution and use in source and binary forms ... Neither the name of",
		"BSD-2-Clause": "Redistribution and use in source and binary forms ...",
		"Apache-2.0":   "Apache License\n  Version 2.0, January 2004",
		"MPL-2.0":      "Mozilla Public License, version 2.0",
		"ISC":          "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted",
		"":             "GNU General Public License",
	} {
		if got := licenseOf(text); got != want {
			t.Errorf("%.40q: got %q, want %q", text, got, want)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte("all rights reserved"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := licensed(module{Path: "example.com/x"}, dir); err == nil || !strings.Contains(err.Error(), "example.com/x") {
		t.Errorf("a module with an unknown license: got %v, want an error that names it", err)
	}
}

// someBuild is what a build would be.
func someBuild() build {
	return build{arch: "amd64", program: []byte("program"), sbom: []byte("{}"), modules: []module{
		{Path: "std", Version: "1.26", License: "BSD-3-Clause", Texts: []string{"same text"}},
		{Path: "example.com/a+b", Version: "v1.0.0+incompatible", License: "MIT", Texts: []string{"same text", "a notice"}},
	}}
}

// TestBillOfMaterials holds the SBOM to what the specification of CycloneDX 1.6 requires of these objects.
func TestBillOfMaterials(t *testing.T) {
	o := order{Version: "1.2.3", epoch: time.Unix(1764000000, 0).UTC()}
	text, err := o.bill(someBuild())
	if err != nil {
		t.Fatal(err)
	}
	var bom map[string]any
	if err := json.Unmarshal(text, &bom); err != nil {
		t.Fatal(err)
	}
	if bom["bomFormat"] != "CycloneDX" || bom["specVersion"] != "1.6" || bom["version"] != 1.0 {
		t.Errorf("the head is %v %v %v", bom["bomFormat"], bom["specVersion"], bom["version"])
	}
	if serial := bom["serialNumber"].(string); !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(serial) {
		t.Errorf("serialNumber is %s, want a UUID of version 8", serial)
	}
	metadata := bom["metadata"].(map[string]any)
	if _, err := time.Parse(time.RFC3339, metadata["timestamp"].(string)); err != nil {
		t.Error(err)
	}
	refs := []string{metadata["component"].(map[string]any)["bom-ref"].(string)}
	for _, c := range bom["components"].([]any) {
		c := c.(map[string]any)
		if c["type"] != "library" || c["name"] == "" || !regexp.MustCompile(`^pkg:golang/[^ +]*(\+[^ @]*)?@[^+ ]+$`).MatchString(c["purl"].(string)) {
			t.Errorf("component %v", c)
		}
		refs = append(refs, c["bom-ref"].(string))
	}
	if slices.Sort(refs); len(slices.Compact(slices.Clone(refs))) != len(refs) || len(refs) != 3 {
		t.Errorf("the references are %q, want three different ones", refs)
	}
	for _, d := range bom["dependencies"].([]any) {
		for _, on := range d.(map[string]any)["dependsOn"].([]any) {
			if !slices.Contains(refs, on.(string)) {
				t.Errorf("a dependency on %s, which is no component", on)
			}
		}
	}
}

func TestNotices(t *testing.T) {
	text := string(notices(someBuild().modules))
	if strings.Count(text, "same text") != 1 || !strings.Contains(text, "a notice") || !strings.Contains(text, "std\nexample.com/a+b\n\nsame text") {
		t.Errorf("got\n%s", text)
	}
}

// TestImageIsReproducible makes an image twice.
func TestImageIsReproducible(t *testing.T) {
	authorities := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(authorities, []byte("-----BEGIN CERTIFICATE-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var archives [2][]byte
	for i := range archives {
		o := order{Version: "1.2.3", Out: t.TempDir(), CA: authorities, epoch: time.Unix(1764000000, 0).UTC()}
		made, err := o.image(someBuild())
		if err != nil {
			t.Fatal(err)
		}
		if err := o.layout([]image{made}); err != nil {
			t.Fatal(err)
		}
		if archives[i], err = os.ReadFile(filepath.Join(o.Out, "penstock_1.2.3_oci.tar")); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two images of the same build differ")
	}
	names := make(map[string]bool)
	for r := tar.NewReader(bytes.NewReader(archives[0])); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names[h.Name] = true
	}
	if !names["oci-layout"] || !names["index.json"] || len(names) != 8 { // and two folders, layer, config, manifest, index
		t.Errorf("the layout has %v", names)
	}
	o := order{CA: filepath.Join(t.TempDir(), "none")}
	if _, err := o.image(someBuild()); err == nil {
		t.Error("an image without certificates: got no error")
	}
}

func TestOrdersThatAreRefused(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]order{
		`no format "exe"`: {Formats: []string{"exe"}},
		`"mips" is not`:   {Archs: []string{"mips"}},
		"needs one -arch": {Archs: []string{"amd64", "arm64"}, Binary: "penstock"},
		"is not empty":    {Out: full},
	} {
		if err := o.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

// TestNoEngineIsReleased looks for the NATS server, which the demo of a fleet has where it runs from source.
func TestNoEngineIsReleased(t *testing.T) {
	const engine = "github.com/nats-io/nats-server/v2/server\n"
	for _, row := range []struct {
		tags string
		has  bool
	}{{tag, false}, {"", true}} {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-tags", row.tags, "./cmd/penstock")
		cmd.Dir = filepath.Join("..", "..", "..")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(out), engine); got != row.has {
			t.Errorf("with -tags %q: penstock has a NATS server: got %v, want %v", row.tags, got, row.has)
		}
	}
}

// TestScriptsParse needs sh. What the scripts of a Debian package do is tested in e2e.
func TestScriptsParse(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	scripts, err := filepath.Glob(filepath.Join("..", "..", "..", "deploy", "packages", "*.p*"))
	if err != nil || len(scripts) != 8 {
		t.Fatalf("got %q %v, want 8 scripts", scripts, err)
	}
	for _, script := range scripts {
		if out, err := exec.CommandContext(t.Context(), sh, "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
}

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// module is something of others in the program.
type module struct {
	Path, Version string
	License       string   // by its SPDX name
	Texts         []string // of its license and its notices
}

// modules returns what a program is made of beside penstock, Go's library first. A module whose license is not known is an error:
// nobody would have looked whether it may be passed on.
func (o *order) modules(ctx context.Context, program string) ([]module, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("what is %s made of: %w", program, err)
	}
	goroot, err := o.run(ctx, "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	std, err := licensed(module{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go")}, goroot)
	if err != nil {
		return nil, err
	}
	list := []module{std}
	args := []string{"list", "-m", "-f", "{{.Dir}}"}
	for _, dep := range info.Deps {
		if dep.Replace != nil {
			dep = dep.Replace
		}
		args = append(args, dep.Path)
		list = append(list, module{Path: dep.Path, Version: dep.Version})
	}
	dirs, err := o.run(ctx, "go", args...)
	if err != nil {
		return nil, err
	}
	where := strings.Split(dirs, "\n")
	if len(where) != len(list)-1 {
		return nil, fmt.Errorf("not all modules are in the module cache: run go mod download")
	}
	for i, dir := range where {
		if list[i+1], err = licensed(list[i+1], dir); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// licensed reads the license and the notices of a module in dir.
func licensed(m module, dir string) (module, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return m, fmt.Errorf("license of %s: %w", m.Path, err)
	}
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		isLicense := strings.HasPrefix(name, "LICENSE") || strings.HasPrefix(name, "LICENCE") || strings.HasPrefix(name, "COPYING")
		if e.IsDir() || strings.HasSuffix(name, ".GO") || !isLicense && !strings.HasPrefix(name, "NOTICE") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return m, err
		}
		m.Texts = append(m.Texts, string(text))
		if isLicense && m.License == "" {
			m.License = licenseOf(string(text))
		}
	}
	if m.License == "" {
		return m, fmt.Errorf("license of %s %s: there is none that is known in %s: read it, and teach licenseOf its words", m.Path, m.Version, dir)
	}
	return m, nil
}

// licenseOf returns the SPDX name of a license that may be passed on with a program, or "".
func licenseOf(text string) string {
	text = strings.ToLower(strings.Join(strings.Fields(text), " "))
	has := func(words string) bool { return strings.Contains(text, words) }
	switch {
	case has("apache license") && has("version 2.0"):
		return "Apache-2.0"
	case has("mozilla public license") && has("version 2.0") || has("mozilla public license, version 2.0"):
		return "MPL-2.0"
	case has("permission is hereby granted, free of charge"):
		return "MIT"
	case has("permission to use, copy, modify, and") && has("with or without fee is hereby granted"):
		return "ISC"
	case has("redistribution and use in source and binary forms") && (has("neither the name") || has("names of its contributors") || has("names of contributors")):
		return "BSD-3-Clause"
	case has("redistribution and use in source and binary forms"):
		return "BSD-2-Clause"
	}
	return ""
}

// notices is the file with everybody's licenses. A text that several have is written once.
func notices(modules []module) []byte {
	var b bytes.Buffer
	b.WriteString("penstock contains these libraries:\n\n")
	owners := make(map[string][]string)
	var texts []string
	for _, m := range modules {
		fmt.Fprintf(&b, "%s %s: %s\n", m.Path, m.Version, m.License)
		for _, text := range m.Texts {
			if owners[text] == nil {
				texts = append(texts, text)
			}
			owners[text] = append(owners[text], m.Path)
		}
	}
	for _, text := range texts {
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s\n", strings.Repeat("=", 78), strings.Join(owners[text], "\n"), strings.TrimSpace(text))
	}
	return b.Bytes()
}

// The parts of a bill of materials in CycloneDX 1.6.
type (
	billOfMaterials struct {
		Format       string       `json:"bomFormat"`
		Spec         string       `json:"specVersion"`
		Serial       string       `json:"serialNumber"`
		Version      int          `json:"version"`
		Metadata     billMetadata `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	billMetadata struct {
		Timestamp string    `json:"timestamp"`
		Component component `json:"component"`
	}
	component struct {
		Type     string          `json:"type"`
		Ref      string          `json:"bom-ref"`
		Name     string          `json:"name"`
		Version  string          `json:"version"`
		Purl     string          `json:"purl,omitempty"`
		Licenses []licenseChoice `json:"licenses"`
		Hashes   []hash          `json:"hashes,omitempty"`
	}
	licenseChoice struct {
		License struct {
			ID string `json:"id"`
		} `json:"license"`
	}
	hash struct {
		Alg     string `json:"alg"`
		Content string `json:"content"`
	}
	dependency struct {
		Ref       string   `json:"ref"`
		DependsOn []string `json:"dependsOn"`
	}
)

// bill is the SBOM of a program. Its serial number follows from the program, so that the same program has the same one.
func (o *order) bill(b build) ([]byte, error) {
	sum := sha256.Sum256(b.program)
	id := sum[:16]
	id = append(slices.Clone(id[:6]), append([]byte{id[6]&0x0f | 0x80, id[7], id[8]&0x3f | 0x80}, id[9:]...)...) // version 8: of our own making
	main := component{Type: "application", Ref: "penstock", Name: "penstock", Version: o.Version, Licenses: license("Apache-2.0"),
		Hashes: []hash{{"SHA-256", fmt.Sprintf("%x", sum)}}}
	bom := billOfMaterials{
		Format: "CycloneDX", Spec: "1.6", Version: 1,
		Serial:   fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]),
		Metadata: billMetadata{Timestamp: o.epoch.Format("2006-01-02T15:04:05Z"), Component: main},
	}
	needs := dependency{Ref: main.Ref}
	for _, m := range b.modules {
		purl := "pkg:golang/" + m.Path + "@" + strings.ReplaceAll(m.Version, "+", "%2B")
		bom.Components = append(bom.Components, component{Type: "library", Ref: purl, Name: m.Path, Version: m.Version, Purl: purl, Licenses: license(m.License)})
		needs.DependsOn = append(needs.DependsOn, purl)
	}
	bom.Dependencies = []dependency{needs}
	text, err := json.MarshalIndent(bom, "", "  ")
	return append(text, '\n'), err
}

func license(id string) []licenseChoice {
	var c licenseChoice
	c.License.ID = id
	return []licenseChoice{c}
}

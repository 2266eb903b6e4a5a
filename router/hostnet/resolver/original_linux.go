package resolver

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"slices"
)

// Our file has the original in comments, for the case that the journal is lost. It is encoded, so that a script that looks for the word
// nameserver in comments too finds none, and in short lines: musl reads 256 bytes of each.
const (
	originalTitle  = "# The original, as penstock reads it:\n"
	originalPrefix = "#= "
	originalWidth  = 76
)

// original is what is encoded. A container's file may be a copy of the host's, but the link or the owner in it are the host's.
type original struct {
	Namespace string `json:"namespace"`
	File
}

// appendOriginal appends the original to our file, if it is known.
func (f *File) appendOriginal(b *bytes.Buffer) {
	if isOurs(f.Content) {
		return
	}
	o := original{namespace(), *f}
	o.Path = ""
	if f.Link != "" { // ours may be read by all
		if info, err := os.Stat(f.Target()); err != nil || info.Mode().Perm()&0o004 == 0 {
			o.Content = nil
		}
	}
	raw, err := json.Marshal(o)
	if err != nil {
		return // it has no field that cannot be encoded
	}
	b.WriteString(originalTitle)
	for line := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(raw)), originalWidth) {
		b.WriteString(originalPrefix)
		b.Write(line)
		b.WriteByte('\n')
	}
}

// originalIn returns the original that our file at path has in comments, or nil if it is not all there.
func originalIn(content []byte, path string) *File {
	var encoded []byte
	for line := range bytes.Lines(content) {
		if rest, ok := bytes.CutPrefix(bytes.TrimRight(line, "\n"), []byte(originalPrefix)); ok {
			encoded = append(encoded, rest...)
		}
	}
	raw, err := base64.StdEncoding.AppendDecode(nil, encoded)
	var o original
	if err != nil || json.Unmarshal(raw, &o) != nil || o.Namespace != namespace() {
		return nil
	}
	o.Path, o.found = path, true
	return &o.File
}

// namespace names the network namespace that this process is in; "" if that cannot be found out.
func namespace() string {
	name, _ := os.Readlink("/proc/thread-self/ns/net")
	return name
}

// Salvage returns what undoes our file at path without a journal. It returns nil if the file is not ours; lost says that it is ours, and
// that the original is in it no more.
func Salvage(path string) (f *File, lost bool) {
	now, err := readFile(path)
	if err != nil || !isOurs(now.Content) {
		return nil, false
	}
	f = originalIn(now.Content, path)
	return f, f == nil
}

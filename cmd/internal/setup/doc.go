// Package setup makes the first configuration of a machine from a few answers: the text, and the files that it needs beside it.
//
// To read it, start at Answers. Ask asks for what is missing, New turns the answers into a Plan, and the Plan is checked as a copy
// in a folder of its own before Write makes the first file. Nothing that exists is replaced. Service installs and starts the unit.
//
// It does not compile configurations and prints nothing but questions: the command line hands it what checks, and says what was
// done.
package setup

"""Storage of models: conversion, adapters, assembly, presets."""
